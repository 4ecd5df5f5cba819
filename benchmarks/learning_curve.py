"""Measure how many calibration detections a corrector needs: held-out NLL by detections per class, as table and plot.

    python benchmarks/learning_curve.py --predictions results.json --annotations instances.json --plot curve.png

Each repetition deals the images into 5 folds. It draws a fixed number of detections per class from the training folds.
A corrector is fitted to them alone, and judged on the whole held-out fold.

The table shows the change of NLL to the raw scores (negative is better), as mean over repetitions. Parentheses hold the
number of repetitions in which the corrector was worse than raw by more than chance. Then the 95% interval of the paired
difference by image is above 0. `netcal` marks methods of that package.
"""

import argparse
import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from raylabel.calibration import CORRECTOR_KINDS, Detections, FitContext, fit_corrector, image_folds
from raylabel.calibration.metrics import bootstrap_interval, pointwise_nll
from raylabel.calibration.results_file import read_detections
from raylabel.dataset.annotations import read_annotations

SIZES = (1, 3, 10, 30, 100, 300)
Fit = Callable[[Detections], Callable[[Detections], NDArray[np.float64]]]


@dataclass(frozen=True)
class Point:
    """One method at one size.

    Attributes:
        change: change of NLL to the raw scores, as mean over repetitions.
        spread: standard deviation over repetitions.
        num_harmed: number of repetitions in which the method was worse than raw by more than chance.
    """

    change: float
    spread: float
    num_harmed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", required=True, help="COCO/LVIS results JSON with masks")
    parser.add_argument("--annotations", required=True, help="COCO or LVIS JSON")
    parser.add_argument("--min-score", type=float, default=0.05, help="leave out detections with a lower score")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--methods", nargs="+", help="methods to run; all by default")
    parser.add_argument("--plot", help="PNG file to write")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # because netcal warns on few samples

    annotated = read_annotations(arguments.annotations)
    matched = read_detections(arguments.predictions, annotated)
    detections = matched.subset(matched.raw_scores >= arguments.min_score).scored()
    context = FitContext.of(annotated)
    methods: dict[str, Fit] = {
        kind: partial(fit_corrector, kind, context=context) for kind in CORRECTOR_KINDS if kind != "none"
    }
    methods |= netcal_methods()
    chosen = arguments.methods or list(methods)
    print(
        f"{len(detections)} detections; {arguments.repetitions} repetitions; change of NLL (repetitions worse than raw)"
    )
    print(f"{'detections per class':<28}" + "".join(f"{size:>16}" for size in SIZES))
    curves = {}
    for name in chosen:
        curves[name] = [learn(detections, methods[name], size, arguments.repetitions) for size in SIZES]
        cells = [f"{one.change:+.4f} ({one.num_harmed})" if one else "fails" for one in curves[name]]
        print(f"{name:<28}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
    if arguments.plot:
        plot(curves, Path(arguments.plot))


def learn(detections: Detections, fit: Fit, size: int, num_repetitions: int) -> Point | None:
    """Measure one method at one size. None if the method cannot be fitted to this few detections."""
    raw_losses = pointwise_nll(detections.raw_scores, detections.is_correct)
    changes, num_harmed = [], 0
    for repetition in range(num_repetitions):
        rng = np.random.default_rng([size, repetition])
        folds = image_folds(detections.image_indices, seed=repetition)
        scores = np.empty(len(detections))
        for fold in np.unique(folds):
            drawn = drawn_per_class(detections.subset(folds != fold), size, rng)
            try:
                scores[folds == fold] = fit(drawn)(detections.subset(folds == fold))
            except (ValueError, RuntimeError, IndexError, np.linalg.LinAlgError):
                return None
        if np.isnan(scores).any():
            return None
        change = pointwise_nll(scores, detections.is_correct) - raw_losses
        changes.append(change.mean())
        interval = bootstrap_interval(partial(weighted_mean, change), detections.image_indices, num=400)
        num_harmed += interval.low > 0
    return Point(float(np.mean(changes)), float(np.std(changes)), num_harmed)


def weighted_mean(values: NDArray[np.float64], times: NDArray[np.float64]) -> float:
    """Compute the mean of values, each drawn `times` times."""
    return float(values @ times / times.sum())


def drawn_per_class(detections: Detections, size: int, rng: np.random.Generator) -> Detections:
    """Draw at most `size` detections per class at random."""
    shuffled = rng.permutation(len(detections))
    by_class = shuffled[np.argsort(detections.class_indices[shuffled], kind="stable")]
    classes = detections.class_indices[by_class]
    place = np.arange(len(classes)) - np.searchsorted(classes, classes)
    return detections.subset(np.sort(by_class[place < size]))


def netcal_methods() -> dict[str, Fit]:
    """Return netcal's methods that use only the confidence."""
    try:
        from netcal.binning import BBQ, HistogramBinning
        from netcal.scaling import BetaCalibration, LogisticCalibration
    except ImportError:
        print("netcal is not installed, so its methods are left out")
        return {}
    builders = {
        "netcal HistogramBinning": lambda: HistogramBinning(15),
        "netcal BBQ": BBQ,
        "netcal LogisticCalibration": LogisticCalibration,
        "netcal BetaCalibration": BetaCalibration,
    }
    return {name: partial(fit_netcal, build) for name, build in builders.items()}


def fit_netcal(build: Callable[[], Any], detections: Detections) -> Callable[[Detections], NDArray[np.float64]]:
    """Fit a netcal method without its progress bars. Errors of netcal pass through."""
    method = build()
    with contextlib.redirect_stderr(io.StringIO()):
        method.fit(detections.raw_scores, detections.is_correct.astype(int))

    def scores(unseen: Detections) -> NDArray[np.float64]:
        return np.asarray(method.transform(unseen.raw_scores), dtype=np.float64).reshape(len(unseen))

    return scores


def plot(curves: dict[str, list[Point | None]], path: Path) -> None:
    """Plot the change of NLL by detections per class. Points above the frame are far worse than raw."""
    figure, axes = plt.subplots(figsize=(9, 5.2), dpi=120)
    strong = {"contextual": "#0072B2", "hierarchical": "#009E73", "auto": "#D55E00"}
    others = iter(["#999999", "#CC79A7", "#56B4E9", "#E69F00", "#B8A900", "#6A51A3", "#8C6D31", "#636363", "#31A354"])
    for name, points in curves.items():
        kept = [(size, point) for size, point in zip(SIZES, points, strict=True) if point is not None]
        style: dict[str, Any] = {"linewidth": 2.6, "color": strong[name]} if name in strong else {"linewidth": 1.2}
        if name not in strong:
            style |= {"color": next(others, "#999999"), "linestyle": "--" if name.startswith("netcal") else "-"}
        values, spread = ([getattr(point, part) for _, point in kept] for part in ("change", "spread"))
        axes.errorbar([size for size, _ in kept], values, yerr=spread, capsize=2, marker="o", ms=3, label=name, **style)
    axes.axhline(0, color="black", linewidth=1)
    axes.text(SIZES[-1], 0.001, "raw scores", ha="right", va="bottom", fontsize=8)
    axes.set(xscale="log", xlabel="calibration detections per class", ylabel="change of held-out NLL (lower is better)")
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.set_ylim(-0.1, 0.12)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
