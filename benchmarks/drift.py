"""Measure how often the drift report fires with and without a change, and how good its estimates are.

    PYTHONPATH=tests/support python benchmarks/drift.py

It uses simulated detectors and images whose detections clump (`tests/support/image_world.py`), with 24 classes of Zipf
or equal shares. With --predictions and --annotations it also uses random halves of a real detector's images. Nothing
differs between the halves.
"""

import argparse
from dataclasses import replace

import numpy as np

from image_world import FLAT, ZIPF, counted, detect, histogram
from raylabel.calibration import (
    Detections,
    FitContext,
    ImageCounts,
    ReliabilityBins,
    estimate_pool_accuracy,
    fit_corrector,
    measure_drift,
)
from raylabel.calibration.metrics import nll
from raylabel.calibration.results_file import read_detections
from raylabel.dataset.annotations import read_annotations

_MIXES = (("zipf -> zipf", ZIPF, ZIPF), ("zipf -> flat", ZIPF, FLAT), ("flat -> zipf", FLAT, ZIPF))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=400, help="replications of each pair of simulated sets")
    parser.add_argument("--estimates", type=int, default=40, help="replications that estimate pool accuracy")
    parser.add_argument("--predictions", help="COCO/LVIS results JSON with masks")
    parser.add_argument("--annotations", help="COCO or LVIS JSON")
    parser.add_argument("--min-score", type=float, default=0.05, help="after matching, leave out lower scores")
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    print("split -> pool, images of each: share of reports that name a class; share of tests with p < 0.05 and < 0.001")
    for num_images in ((30, 400), (100, 1000), (300, 300), (300, 3000)):
        for name, here, there in _MIXES:
            num = arguments.replications if here is there else arguments.replications // 10
            reports = [_simulated(rng, here, there, num_images) for _ in range(num)]
            p_values = np.concatenate([np.stack([one.psi_p_value, one.rate_p_value]).ravel() for one in reports])
            p_values = p_values[~np.isnan(p_values)]
            fired = np.mean([len(one.drifted_classes) > 0 for one in reports])
            named = np.mean([len(one.drifted_classes) for one in reports])
            print(
                f"{name} {num_images[0]:>4} {num_images[1]:>5}: {fired:.3f} of {num} ({named:.1f} classes named), "
                f"p < 0.05 {(p_values < 0.05).mean():.4f}, p < 0.001 {(p_values < 0.001).mean():.5f}",
                flush=True,
            )
    print("\nestimated accuracy per class in a pool of 1000 images; NLL of the pool")
    for num_images in (30, 100, 400):
        for name, here, there in _MIXES:
            rows = [
                _estimated(detect(rng, num_images, here), detect(rng, 1000, there)) for _ in range(arguments.estimates)
            ]
            _print_estimates(f"{name} {num_images:>4}", rows)
    if arguments.predictions:
        _real(arguments)


def _simulated(rng: np.random.Generator, here: np.ndarray, there: np.ndarray, num_images: tuple[int, int]):
    split, pool = (counted(detect(rng, num, mix), num) for num, mix in zip(num_images, (here, there), strict=True))
    return measure_drift(split, pool)


def _estimated(split: Detections, pool: Detections) -> dict[str, np.ndarray]:
    unknown = histogram(replace(pool, outcomes=np.zeros(len(pool), np.int8)))
    found = estimate_pool_accuracy(split, unknown)
    of_pool, of_split = (ReliabilityBins.from_detections(one, 50) for one in (pool, split))
    num = of_pool.num.sum(axis=1)
    rows = num >= 10
    truth = (of_pool.num_correct.sum(axis=1) / np.maximum(num, 1))[rows]
    before = (of_split.num_correct.sum(axis=1) + 1) / (of_split.num.sum(axis=1) + 2)
    scored = pool.scored()
    context = FitContext(num_bins=15, frequency_groups=np.full(pool.num_classes, "f"))
    correctors = [fit_corrector("marginal", split, context=replace(context, pool_histogram=h)) for h in (None, unknown)]
    return {
        "held": ((found.low[rows] <= truth) & (truth <= found.high[rows])),
        "width": (found.high - found.low)[rows],
        "error": np.abs(found.accuracy[rows] - truth),
        "error_before": np.abs(before[rows] - truth),
        "nll": np.array([[nll(s, scored.is_correct) for s in (scored.raw_scores, *(c(scored) for c in correctors))]]),
    }


def _print_estimates(name: str, rows: list[dict[str, np.ndarray]]) -> None:
    mean = {key: np.concatenate([row[key] for row in rows]).mean(axis=0) for key in rows[0]}
    print(
        f"{name}: interval contains the truth {mean['held']:.3f}, width {mean['width']:.3f}; mean error "
        f"{mean['error']:.3f}, with the split's accuracy {mean['error_before']:.3f}; NLL raw {mean['nll'][0]:.4f}, "
        f"marginal {mean['nll'][1]:.4f}, for the pool {mean['nll'][2]:.4f}",
        flush=True,
    )


def _real(arguments: argparse.Namespace) -> None:
    annotated = read_annotations(arguments.annotations)
    matched = read_detections(arguments.predictions, annotated)
    detections = matched.subset(matched.raw_scores >= arguments.min_score)
    num_images, fired, rows = len(annotated.images), [], []
    for seed in range(arguments.replications):
        order = np.random.default_rng(seed).permutation(num_images)
        is_split = np.isin(detections.image_indices, order[: num_images // 2])
        split, pool = detections.subset(is_split), detections.subset(~is_split)
        counts = [
            ImageCounts.from_detections(part, num_images=num, num_bins=50)
            for part, num in ((split, num_images // 2), (pool, num_images - num_images // 2))
        ]
        fired.append(len(measure_drift(*counts).drifted_classes) > 0)
        if seed < arguments.estimates:
            rows.append(_estimated(split, pool))
    print(f"\nrandom halves of {num_images} images of a real detector: {np.mean(fired):.3f} of reports name a class")
    _print_estimates("real halves", rows)


if __name__ == "__main__":
    main()
