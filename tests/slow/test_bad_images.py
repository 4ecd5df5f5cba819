"""An unreadable annotated image ends training with one line and exit code 2, without retries."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from raylabel.dataset.annotations import read_annotations
from raylabel.dataset.synthetic.generate import generate

pytestmark = pytest.mark.slow


def test_a_damaged_labelled_image_is_named(tmp_path: Path) -> None:
    """The damage is in the middle of the files, where `check` does not look."""
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    for image in read_annotations(str(tmp_path / "labelled.json"), str(tmp_path / "images")).images:
        path = Path(image.uri)
        Image.open(path).save(path, "PNG")
        content = path.read_bytes()
        path.write_bytes(content[:200] + bytes(100) + content[300:])
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {labelled: labelled.json, images: images, calibration: calibration.json, validation: val.json,\n"
        "       pool: pool}\n"
        "smoothing: {warmup_steps: 4}\n"
        "teacher: {steps: 8, batch_size: 4}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "raylabel.cli", "run", str(config), "--out", str(tmp_path / "run")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("raylabel: ")
    assert ".jpg: can't be read for training" in last
    assert "Traceback" not in done.stderr
