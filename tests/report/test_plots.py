"""Bars and curves are valid PNGs, legible in size."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from raylabel.files.committing import commit_bytes
from raylabel.report.plots import bars_png, panels_png
from raylabel.report.sections import training_curves
from raylabel.run.folder import RunFolder


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def has_colour(content: bytes, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels(content) - colour).sum(axis=2) < 12).any())


RAW = (0xD5, 0x5E, 0x00)


def test_bars_leave_out_what_is_none() -> None:
    labels = ["all", "rare", "common"]
    with_none = bars_png({"raw": [0.2, 0.3, None], "calibrated": [None, 0.1, 0.2]}, labels, x_label="CCECE")
    both = bars_png({"raw": [0.2, 0.3, 0.1], "calibrated": [0.1, 0.1, 0.2]}, labels, x_label="CCECE")
    assert pixels(with_none).shape[1] > 900
    assert with_none != both


def test_curves() -> None:
    content = panels_png({"loss": {"teacher": ([1, 2, 3], [3.0, 2.0, 1.0])}, "images/s": {}, "AP": {}}, x_label="step")
    assert has_colour(content, RAW)


def test_panels_without_figures_are_left_out(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    assert training_curves(run) is None
    heights = []
    for keys in (["loss"], ["loss", "ema_AP", "learning_rate"]):
        rows = [{"step": step} | dict.fromkeys(keys, 1.0) for step in (10, 20, 30)]
        commit_bytes(run.path("teacher", "metrics.jsonl"), "\n".join(json.dumps(row) for row in rows).encode())
        content = training_curves(run)
        assert content is not None
        heights.append(pixels(content).shape[0])
    assert heights[1] > 1.5 * heights[0], "two rows of panels"


def test_the_place_beside_an_odd_panel_is_empty() -> None:
    image = pixels(panels_png({key: {"teacher": ([1, 2], [3.0, 2.0])} for key in "abc"}, x_label="step"))
    height, width = image.shape[0] * 11 // 20, image.shape[1] * 11 // 20
    assert (image[height:, width:] == 255).all()
    assert not (image[height:, : image.shape[1] // 2] == 255).all()
