"""12-megapixel photographs with an object store of 200 MB: labelled without spilling, by threads and by tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prepared import prepared_run
from raylabel.config import load_config
from raylabel.dataset.synthetic.generate import generate
from stored_labels import label_rows

pytestmark = pytest.mark.slow

NUM_IMAGES = 12
STORE_BYTES = 200 * 10**6

DRIVER = """
import json, os, sys, threading
from pathlib import Path
import ray
from raylabel.config import load_config
from raylabel.stages import label
from raylabel.run.folder import RunFolder

peaks, stop = {}, threading.Event()

def follow():
    while not stop.wait(0.5):
        parents, workers = {}, {}
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
                command = (path.parent / "cmdline").read_text()
            except OSError:
                continue
            parents[int(fields["Pid"])] = int(fields["PPid"])
            if command.startswith("ray::") and ("MapWorker" in command or "_decode_task" in command):
                workers[int(fields["Pid"])] = int(fields["VmHWM"].split()[0]) / 1024
        for pid, peak in workers.items():
            ancestor = pid
            while ancestor in parents and ancestor != os.getpid():
                ancestor = parents[ancestor]
            if ancestor == os.getpid():
                peaks[pid] = peak

store_bytes = int(sys.argv[3])
ray.init(address="local", num_cpus=3, object_store_memory=store_bytes, include_dashboard=False, log_to_driver=False)
thread = threading.Thread(target=follow)
thread.start()
label.run_stage(load_config(sys.argv[1]), RunFolder(sys.argv[2]))
stop.set()
thread.join()
stats = ray._private.internal_api.memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
print(json.dumps({"stats": stats, "peaks_mb": list(peaks.values())}))
"""


@pytest.mark.parametrize("decoding", ["threads", "tasks"])
def test_no_image_is_spilled(decoding: str, tmp_path: Path) -> None:
    """If decoded at once, the images ahead of two workers (3 batches of 16) would take 3.4 GB."""
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    pool = tmp_path / "large"
    pool.mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        noise = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).resize((4000, 3000))
        noise.save(pool / f"{number:02d}.jpg", quality=90)
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {labelled: labelled.json, images: images, calibration: calibration.json, validation: val.json,\n"
        "       pool: large}\n"
        'teacher: {model: "fakes:WaitingSegmenter"}\nstudent: {model: "fakes:WaitingSegmenter"}\n'
        f"label: {{shard_size: 6, num_workers: 2, num_cpus: 0.5, decoding: {decoding}}}\n"
    )
    run = prepared_run(load_config(path), tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path), run.uri, str(STORE_BYTES)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print("peak memory of each worker and decoder in MB:", [round(peak) for peak in result["peaks_mb"]])
    assert "Spilled" not in result["stats"], result["stats"]
    assert result["peaks_mb"]
    assert max(result["peaks_mb"]) < 1600, "torch and Ray take 500 MB of it; unbounded, it is over 2 GB"
    assert [row["status"] for row in label_rows(run)] == ["ok"] * NUM_IMAGES
