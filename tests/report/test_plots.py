"""Bars and curves are valid PNGs, legible in size."""

import io

import numpy as np
from PIL import Image

from raylabel.report.plots import bars_png, curves_png


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
    content = curves_png({"classes": ([1, 2, 3], [3.0, 2.0, 1.0])}, x_label="step", y_label="loss")
    assert has_colour(content, RAW)
