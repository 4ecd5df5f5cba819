"""Plots are valid PNGs, legible in size, deterministic, and leave no global figure."""

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from raylabel.calibration.bins import ReliabilityBins
from raylabel.report.plots import bars_png, curves_png, reliability_png

NUM_CLASSES, NUM_BINS = 6, 10


def overconfident_bins(shift: float) -> ReliabilityBins:
    rng = np.random.default_rng(0)
    num = rng.integers(0, 60, (NUM_CLASSES, NUM_BINS)).astype(float)
    confidence = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    accuracy = np.clip(confidence - shift, 0, 1)
    return ReliabilityBins(
        num=num, sum_confidence=num * confidence, num_correct=num * accuracy, num_ignored=np.zeros_like(num)
    )


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def has_colour(content: bytes, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels(content) - colour).sum(axis=2) < 12).any())


GROUPS = {
    "r": np.array([1, 1, 0, 0, 0, 0], bool),
    "c": np.array([0, 0, 1, 1, 0, 0], bool),
    "f": np.array([0, 0, 0, 0, 1, 1], bool),
}
RAW, CALIBRATED = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)


def test_a_panel_for_all_and_one_a_group_with_both_curves() -> None:
    four = reliability_png(overconfident_bins(0.2), overconfident_bins(0.0), groups=GROUPS, title="t")
    one = reliability_png(overconfident_bins(0.2), None, groups={})
    assert pixels(four).shape[1] > 3 * pixels(one).shape[1]
    assert pixels(four).shape[0] > 500
    assert has_colour(four, RAW)
    assert has_colour(four, CALIBRATED)
    assert has_colour(one, RAW)
    assert not has_colour(one, CALIBRATED)


def test_no_detection_at_all_and_in_a_group() -> None:
    empty = ReliabilityBins.zeros(NUM_CLASSES, NUM_BINS)
    assert not has_colour(reliability_png(empty, empty, groups={}), CALIBRATED)
    bins = overconfident_bins(0.1)
    bins.num[:2] = bins.sum_confidence[:2] = bins.num_correct[:2] = 0
    assert has_colour(reliability_png(bins, bins, groups={"r": GROUPS["r"]}), CALIBRATED)


def test_same_bytes_and_no_global_state() -> None:
    backend, settings = matplotlib.get_backend(), dict(matplotlib.rcParams)
    first, second = (reliability_png(overconfident_bins(0.2), None, groups={}) for _ in range(2))
    assert first == second
    assert plt.get_fignums() == []
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams)) == (backend, settings)


def test_bars_leave_out_what_is_none() -> None:
    labels = ["all", "rare", "common"]
    with_none = bars_png({"raw": [0.2, 0.3, None], "calibrated": [None, 0.1, 0.2]}, labels, x_label="CCECE")
    both = bars_png({"raw": [0.2, 0.3, 0.1], "calibrated": [0.1, 0.1, 0.2]}, labels, x_label="CCECE")
    assert pixels(with_none).shape[1] > 900
    assert with_none != both


def test_curves() -> None:
    content = curves_png({"classes": ([1, 2, 3], [3.0, 2.0, 1.0])}, x_label="step", y_label="loss")
    assert has_colour(content, RAW)
