"""Measure what labelling costs besides reading images and running a model, and how that grows.

    PYTHONPATH=benchmarks:tests/support python benchmarks/labelling_scale.py [--parts listing labelling resume behind]

listing     makes a shard manifest from a JSONL manifest of --images lines.
labelling   runs `label` on such a manifest. It names few files, the segmenter finds nothing, and nothing is decoded.
resume      runs `status`, and `label` until it hands out its first shard. --shards shards are committed, 8 are left.
behind      does what comes behind the last of --shards committed shards: the survey of `label`, the student's index,
            and another corrector. 37 predictions an image, 1,203 classes. Counted are the CPU time and the reads of the
            driver, per shard, with the work on its threads and on the cluster. With --s3-delay SECONDS the run lies on
            moto's S3, which answers each request that much later, and all requests of the driver are counted.

Each measurement runs in its own process. Memory is the driver's peak above its use before (in `labelling`, its use
after Ray had started). The memory of the object store is its largest use, sampled once per second.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from delayed_store import delayed_store
from object_store import CREDENTIALS, make_bucket, s3_server
from pool_world import labelled_row, labelled_run, write_shard
from prepared import prepared_run
from raylabel.calibration import Corrector, Detections, FitContext, ReliabilityBins, fit_corrector
from raylabel.cluster.session import connect
from raylabel.cluster.shard_tasks import map_over_shards
from raylabel.config import Config, SelectionConfig, load_config
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.pool.manifest import read_manifest, read_shard, write_manifest
from raylabel.dataset.synthetic.generate import generate
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import read_json_object
from raylabel.files.reading import read_bytes
from raylabel.files.stored_file import StoredFile
from raylabel.files.tables import commit_table
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.corrected import apply_corrector
from raylabel.run.labels.histograms import HISTOGRAM_BINS, histogram_to_json
from raylabel.run.labels.ledger import Ledger
from raylabel.run.labels.manifest import manifest_folder
from raylabel.run.labels.shards import STATUS_OK, committed_shards, shard_uri
from raylabel.run.labels.survey import survey_labels
from raylabel.schema import LABELS
from raylabel.stages import label
from raylabel.threads import Map, map_on_threads
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.index import index_pool

PARTS = ("listing", "labelling", "resume", "behind")
CONFIG = """
data: {labelled: labelled.json, images: images, calibration: calibration.json, validation: val.json, pool: pool.jsonl}
teacher: {model: "idle_segmenter:IdleSegmenter"}
student: {model: "idle_segmenter:IdleSegmenter"}
"""
NUM_LEFT = 8
NUM_CLASSES, NUM_PREDICTIONS = 1203, 37
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--shards", type=int, nargs="+", default=[4_000], help="committed shards, for resume")
    parser.add_argument("--s3-delay", type=float, help="seconds that a request takes longer, for behind on S3")
    arguments = parser.parse_args()
    works: dict[str, Callable[..., dict[str, float]]] = {
        "listing": listing,
        "labelling": labelling,
        "resume": resume,
        "behind": behind,
    }
    for part, work in works.items():
        sizes = arguments.shards if part in ("resume", "behind") else arguments.images
        for size in sizes if part in arguments.parts else []:
            with tempfile.TemporaryDirectory() as folder:
                if part == "behind":
                    figures = isolated(work, folder, size, arguments.s3_delay)
                else:
                    config = world(Path(folder), size if part != "resume" else (size + NUM_LEFT) * 256)
                    figures = isolated(work, config, size)
            print(
                f"{part} {size:,}: " + ", ".join(f"{name} {value:,.5g}" for name, value in figures.items()), flush=True
            )


def world(folder: Path, num_images: int) -> Config:
    """Write a small labelled set, and a manifest of many images that share a few files."""
    generate(folder, num_images=60, num_classes=6, image_size=64)
    names = sorted(path.name for path in (folder / "pool").iterdir())
    with open(folder / "pool.jsonl", "w") as file:
        for number in range(num_images):
            row = {"image_id": f"{number * 7919 % num_images:09d}", "uri": f"pool/{names[number % len(names)]}"}
            file.write(json.dumps(row) + "\n")
    (folder / "config.yaml").write_text(CONFIG)
    return load_config(folder / "config.yaml")


def isolated(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    pool = multiprocessing.get_context("spawn").Pool(1)
    try:
        return pool.apply(work, arguments)
    finally:
        pool.close()  # close() rather than terminate(), because Ray must shut down in order
        pool.join()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def listing(config: Config, num_images: int) -> dict[str, float]:
    before, start = peak_mib(), time.perf_counter()
    pool = str(config.data.pool)
    manifest = write_manifest(f"{pool}.manifest", iter_pool(pool), source=pool, shard_size=256)
    seconds = time.perf_counter() - start
    assert manifest.num_images == num_images
    written = sum(path.stat().st_size for path in Path(f"{pool}.manifest").iterdir())
    return {"seconds": seconds, "MiB": peak_mib() - before, "MB written": written / 1e6}


def labelling(config: Config, num_images: int) -> dict[str, float]:
    run = prepared_run(config, Path(str(config.data.pool)).with_name("run"))
    connect()
    # A small run first, so that the memory of loaded modules does not count.
    small = replace(config, data=replace(config.data, pool=str(Path(str(config.data.pool)).with_name("pool"))))
    label.run_stage(small, prepared_run(small, Path(f"{run.uri}.small")))
    before, start = peak_mib(), time.perf_counter()
    with object_store_use() as used:
        artifact = label.run_stage(config, run)
    seconds = time.perf_counter() - start
    assert artifact["num_images"] == num_images
    files = sum(len(names) for _, _, names in os.walk(run.path("labels")))
    return {
        "images/s": num_images / artifact["seconds"],
        "seconds": artifact["seconds"],
        "seconds with selection and drift": seconds,
        "driver MiB": peak_mib() - before,
        "object store MiB": max(used) / MIB,
        "files": files,
        "status seconds": status_seconds(run),
    }


@contextmanager
def object_store_use() -> Iterator[list[float]]:
    """Sample the bytes in use once per second inside the block."""
    stop, used = threading.Event(), [0.0]
    total = ray.cluster_resources()["object_store_memory"]

    def watch() -> None:
        while not stop.wait(1):
            used.append(total - ray.available_resources().get("object_store_memory", 0.0))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield used
    finally:
        stop.set()
        thread.join()


def resume(config: Config, num_shards: int) -> dict[str, float]:
    run = prepared_run(config, Path(str(config.data.pool)).with_name("run"))
    to_first_shard(config, run)  # starts the stage and lists the pool
    manifest = read_manifest(manifest_folder(run))
    assert manifest is not None
    for shard_id in range(num_shards):
        commit_fabricated(run, manifest.reference(shard_id))
    without = {"status": status_seconds(run), **to_first_shard(config, run)}
    Ledger(run).write()
    figures = {"status": status_seconds(run), **to_first_shard(config, run)}
    assert len(committed_shards(run)) == num_shards
    return figures | {f"{name} without a ledger": without[name] for name in ("status", "driver")}


def commit_fabricated(run: RunFolder, reference: dict[str, Any]) -> None:
    """Commit a shard as the idle segmenter makes it."""
    images = read_shard(**reference).images
    columns = {
        "image_id": [image.image_id for image in images],
        "uri": [image.uri for image in images],
        "height": [8] * len(images),
        "width": [8] * len(images),
        "as_stored": [False] * len(images),
        "status": [STATUS_OK] * len(images),
        "instances": [[] for _ in images],
    }
    histogram = histogram_to_json(ReliabilityBins.zeros(6, HISTOGRAM_BINS).to_table())
    metadata = {"shard_id": reference["shard_id"], "num_images": len(images), "histogram": histogram, "seconds": 9.5}
    fingerprint = read_json_object(run.path("labels", "started.json"))["fingerprint"]
    metadata |= {"fingerprint": fingerprint, "corrector": "", "num_instances": 0, "num_quarantined": 0}
    schema = LABELS.with_metadata({name: str(value) for name, value in metadata.items()})
    commit_table(shard_uri(run, reference["shard_id"]), pa.table(columns, schema=schema))


def behind(folder: str, num_shards: int, s3_delay: float | None) -> dict[str, float]:
    if s3_delay is None:
        run = made_up_run(folder)
        for shard_id in range(1, num_shards):
            os.link(shard_uri(run, 0), shard_uri(run, shard_id))  # equal shards cost as much as others
        connect()
        with counted_reads() as reads:
            measure_behind(run, num_shards, lambda: reads[0], "reads")
    else:
        with run_on_s3(made_up_run(folder), num_shards, s3_delay) as (run, num_requests):
            measure_behind(run, num_shards, num_requests, "requests")
    return {"driver MiB": peak_mib()}


@contextmanager
def run_on_s3(local: RunFolder, num_shards: int, delay: float) -> Iterator[tuple[RunFolder, Callable[[], int]]]:
    """Yield a copy of a run on a slow store, and a function that counts the requests of this process."""
    with s3_server() as endpoint, delayed_store(endpoint, delay) as (of_workers, _):
        os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}
        make_bucket(endpoint, "runs")
        run = RunFolder("s3://runs/run")
        for name in ("classes.json", "config.yaml"):
            commit_bytes(run.path(name), read_bytes(local.path(name)))
        shard = read_bytes(shard_uri(local, 0))
        for shard_id in range(num_shards):
            commit_bytes(shard_uri(run, shard_id), shard)
        os.environ["AWS_ENDPOINT_URL"] = of_workers
        connect()
        with delayed_store(endpoint, delay) as (of_driver, num_requests):
            os.environ["AWS_ENDPOINT_URL"] = of_driver
            yield run, num_requests


def made_up_run(folder: str) -> RunFolder:
    """Make a run with one committed shard."""
    run = labelled_run(Path(folder), [], names=[f"class {number}" for number in range(NUM_CLASSES)])
    rng, mask = np.random.default_rng(0), np.ones((NUM_PREDICTIONS, 16, 16), bool)
    rows = []
    for number in range(256):
        soft, scores = np.zeros((NUM_PREDICTIONS, NUM_CLASSES + 1), np.float32), rng.uniform(0.5, 1, NUM_PREDICTIONS)
        soft[np.arange(NUM_PREDICTIONS), rng.integers(0, NUM_CLASSES, NUM_PREDICTIONS)] = scores
        soft[:, -1] = 1 - scores
        rows.append(labelled_row(f"{number}", "x", (16, 16), soft, scores, mask, 0.9))
    write_shard(run, 0, rows, num_classes=NUM_CLASSES)
    return run


def measure_behind(run: RunFolder, num_shards: int, num_reads: Callable[[], int], what: str) -> None:
    """Print the costs per shard of each work. `num_reads` counts what the driver has read so far."""
    classes, selection = load_classes(run), SelectionConfig()
    choice = PoolChoice(selection=selection, frequency_groups=classes.frequency_groups, min_foreground=0.5)
    works: dict[str, Callable[[Map], object]] = {
        "survey": lambda how: survey_labels(run, selection, classes, map_groups=how),
        "index": lambda how: index_pool(committed_shards(run), choice, threshold=0.1, map_groups=how),
        "corrector": lambda how: apply_corrector(run, other_corrector(), num_classes=NUM_CLASSES, map_groups=how),
    }
    for place, how in (("threads", map_on_threads), ("cluster", map_over_shards)):
        list(how(len, ["a"] * 64))  # workers are there
        for name, work in works.items():
            before, start, cpu = num_reads(), time.perf_counter(), time.process_time()
            work(how)
            wall, cpu = (1000 * one / num_shards for one in (time.perf_counter() - start, time.process_time() - cpu))
            print(
                f"{name} on {place}: {wall:.1f} ms a shard, of the driver {cpu:.2f} ms of CPU and "
                f"{(num_reads() - before) / num_shards:.2f} {what}",
                flush=True,
            )


def other_corrector() -> Corrector:
    """Fit a corrector that no shard was made with."""
    rng = np.random.default_rng(time.time_ns())
    detections = replace(
        Detections.of_scores(rng.integers(0, NUM_CLASSES, 5000), rng.random(5000), num_classes=NUM_CLASSES),
        outcomes=(rng.random(5000) < 0.3).astype(np.int8),
    )
    context = FitContext(num_bins=20, frequency_groups=np.full(NUM_CLASSES, "f"), seed=0)
    return fit_corrector("temperature", detections, context=context)


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """Count what this process reads of stored files inside the block. On a store each is a request."""
    number, read_at = [0], StoredFile.read_at

    def counted(file: StoredFile, num_bytes: int, offset: int) -> bytes:
        number[0] += 1
        return read_at(file, num_bytes, offset)

    StoredFile.read_at = counted  # type: ignore[method-assign]  # to count, while the block runs
    try:
        yield number
    finally:
        StoredFile.read_at = read_at  # type: ignore[method-assign]  # the class's own again


def status_seconds(run: RunFolder) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "raylabel.cli", "status", run.uri], check=True, capture_output=True)
    return time.perf_counter() - start


FIRST_SHARD = """
import json, sys, time
seconds = {"start": time.perf_counter()}
from raylabel.config import load_config
from raylabel.stages import label, label_shards
from raylabel.cluster.session import connect
from raylabel.run.folder import RunFolder
seconds["imports"] = time.perf_counter()
connect()
seconds["Ray"] = time.perf_counter()

def stop(*arguments, shards, **named):
    shards[0]
    seconds["driver"] = time.perf_counter()
    raise KeyboardInterrupt

label_shards.map_shards = stop
try:
    label.run_stage(load_config(sys.argv[1]), RunFolder(sys.argv[2]))
except KeyboardInterrupt:
    names = list(seconds)
    print("\\n" + json.dumps({name: seconds[name] - seconds[before] for before, name in zip(names, names[1:])}))
"""


def to_first_shard(config: Config, run: RunFolder) -> dict[str, float]:
    """Time the phases from the start of `label` until shards are handed to Ray, in seconds."""
    path = str(Path(str(config.data.pool)).with_name("config.yaml"))
    command = [sys.executable, "-c", FIRST_SHARD, path, run.uri]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds: dict[str, float] = json.loads(output.splitlines()[-1])
    return seconds


if __name__ == "__main__":
    main()
