"""An image that kills its worker is found. Other faults: test_faults.py, and for trainings test_training_faults.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prepared import prepared_run
from raylabel.dataset.synthetic.generate import generate
from raylabel.run.folder import RunFolder
from raylabel.run.labels.attempts import KILLED_ITS_WORKER
from runs import finish, start, write_config
from stored_labels import label_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generate(folder, num_images=400, num_classes=6, image_size=64)
    return folder


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return label_rows(run)


def test_the_image_that_kills_its_worker_is_quarantined(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = write_config(tmp_path, generated, "fakes:LethalSegmenter", shard_size=8, batch_size=4)
    pool = Path(str(config.data.pool))
    image = np.full((64, 64, 3), 255, np.uint8)
    lethal = tmp_path / "pool" / "lethal.png"
    lethal.parent.mkdir()
    for source in sorted(pool.iterdir())[:20]:
        (lethal.parent / source.name).symlink_to(source)
    Image.fromarray(image).save(lethal)
    run = prepared_run(config, tmp_path / "run")
    finish(start("label", path, "--out", run.uri, "--data.pool", str(lethal.parent)))
    statuses = {row["image_id"]: row["status"] for row in rows(run)}
    assert statuses.pop("lethal.png") == KILLED_ITS_WORKER
    assert len(statuses) == 20
    assert set(statuses.values()) == {"ok"}


def test_two_images_that_crash_the_decoder_are_found_in_one_shard(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segmentation fault is in a decoding thread, not in the model."""
    config, path = write_config(tmp_path, generated, "fakes:CrashingDecoderSegmenter", shard_size=16, batch_size=4)
    pool = tmp_path / "pool"
    pool.mkdir()
    for source in sorted(Path(str(config.data.pool)).iterdir())[:14]:
        (pool / source.name).symlink_to(source)
    for name in ("a-lethal.ppm", "lethal-too.ppm"):
        (pool / name).write_bytes(b"P6 1 1 255 crash")
    run = prepared_run(config, tmp_path / "run")
    finish(start("label", path, "--out", run.uri, "--data.pool", str(pool), "--label.max_bad_fraction", "0.5"))
    statuses = {row["image_id"]: row["status"] for row in rows(run)}
    assert [statuses.pop(name) for name in ("a-lethal.ppm", "lethal-too.ppm")] == [KILLED_ITS_WORKER] * 2
    assert len(statuses) == 14
    assert set(statuses.values()) == {"ok"}
