"""Compare all correctors on a detector's results file: calibration, AP and yield of pseudo-labels on held-out images.

    python benchmarks/calibration.py --predictions results.json --annotations instances.json
    python benchmarks/calibration.py --predictions ... --annotations ... \
        --unseen-predictions other_results.json --unseen-annotations other_instances.json

Without an unseen set, the figures are means over seeds of a cross-validation with folds by image. With an unseen set,
correctors are fitted to the first set and applied unchanged to the unseen set. Brackets hold 95% intervals from a
bootstrap over images. `against none` is the paired difference of NLL to the raw scores.

Yield is the share of true objects found by the longest list of best-ranked detections of which 80% are correct. Equal
scores are taken together.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration import (
    CORRECTOR_KINDS,
    Detections,
    FitContext,
    ReliabilityBins,
    fit_corrector,
    image_folds,
    out_of_fold_scores,
)
from raylabel.calibration.metrics import (
    bootstrap_interval,
    ccece,
    ece,
    pointwise_nll,
    pooled_average_precision,
    yield_at_precision,
)
from raylabel.calibration.results_file import read_detections
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.evaluation.average_precision import evaluate_results
from raylabel.files.json_files import read_json

Scorer = Callable[[str], list[NDArray[np.float64]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", required=True, help="COCO/LVIS results JSON with masks")
    parser.add_argument("--annotations", required=True, help="COCO or LVIS JSON")
    parser.add_argument("--unseen-predictions", help="results JSON of the same detector on other images")
    parser.add_argument("--unseen-annotations", help="COCO or LVIS JSON of the other images")
    parser.add_argument("--min-score", type=float, default=0.05, help="leave out detections with a lower score")
    parser.add_argument("--rare-images", type=int, default=5, help="a class in at most this many images is rare")
    parser.add_argument("--num-bins", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of the cross-validation with other folds")
    parser.add_argument("--correctors", nargs="+", default=list(CORRECTOR_KINDS), choices=CORRECTOR_KINDS)
    arguments = parser.parse_args()
    if (arguments.unseen_predictions is None) != (arguments.unseen_annotations is None):
        parser.error("--unseen-predictions and --unseen-annotations go together")

    judged = fitted_on = Results(arguments.predictions, arguments.annotations, arguments.min_score)
    if arguments.unseen_predictions:
        judged = Results(arguments.unseen_predictions, arguments.unseen_annotations, arguments.min_score)
        scorer = partial(unseen_scores, fitted_on, judged, num_bins=arguments.num_bins)
    else:
        scorer = partial(cross_validated_scores, judged, num_bins=arguments.num_bins, num_seeds=arguments.seeds)
    judged.print_table(scorer, arguments.correctors, num_bins=arguments.num_bins, rare_images=arguments.rare_images)


class Results:
    """A results file and its annotations, without detections below a score."""

    def __init__(self, predictions: str, annotations: str, min_score: float) -> None:
        self.annotations_uri = annotations
        self.annotated: AnnotatedSet = read_annotations(annotations)
        self.entries: list[dict[str, Any]] = [one for one in read_json(predictions) if one["score"] >= min_score]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            path.write_text(json.dumps(self.entries))
            self.detections: Detections = read_detections(str(path), self.annotated)
        images = range(len(self.annotated))
        self.num_objects = sum(int((~self.annotated.ground_truth(row).is_crowd).sum()) for row in images)

    def context(self, *, num_bins: int, seed: int = 0) -> FitContext:
        """Make the context for fits on this set."""
        return FitContext.of(self.annotated, num_bins=num_bins, seed=seed)

    def print_table(self, scorer: Scorer, kinds: list[str], *, num_bins: int, rare_images: int) -> None:
        """Print one line per corrector. `scorer` returns one array of scores of all detections per repetition."""
        rows = self.detections.is_scored
        scored = self.detections.subset(rows)
        correct, weights, images = scored.is_correct, scored.weights, scored.image_indices
        is_rare = (self.annotated.class_image_counts() <= rare_images)[scored.class_indices]
        raw_losses = pointwise_nll(scored.raw_scores, correct)
        print(
            f"{len(scored)} scored detections ({correct.mean():.1%} correct) of {self.num_objects} objects; rare: "
            f"{is_rare.sum()} detections of classes in at most {rare_images} images"
        )
        print(
            f"{'corrector':<19}{'NLL':>7}{'':>16}{'rare':>8}{'':>16}{'against none':>24}{'ECE':>7}{'CCECE':>7}"
            f"{'AP':>7}{'APpool':>8}{'yield':>7}{'seconds':>9}"
        )
        for kind in kinds:
            start = time.perf_counter()
            repetitions = scorer(kind)
            seconds = (time.perf_counter() - start) / len(repetitions)
            losses = np.mean([pointwise_nll(scores[rows], correct) for scores in repetitions], axis=0)
            every = with_interval(losses, weights, images)
            rare = with_interval(losses[is_rare], weights[is_rare], images[is_rare])
            gain = with_interval(losses - raw_losses, weights, images, sign="+")
            figures = np.mean([self._figures(scores, num_bins) for scores in repetitions], axis=0)
            print(
                f"{kind:<19}{every:>23}{rare:>24}{gain:>24}"
                + "".join(f"{value:>{width}.3f}" for value, width in zip(figures, (7, 7, 7, 8, 7), strict=True))
                + f"{seconds:>9.2f}",
                flush=True,
            )

    def _figures(self, scores: NDArray[np.float64], num_bins: int) -> list[float]:
        rows = self.detections.is_scored
        scored, correct, chosen = self.detections.subset(rows), self.detections.is_correct[rows], scores[rows]
        bins = ReliabilityBins.from_detections(scored, num_bins, chosen)
        found = yield_at_precision(chosen, correct, self.num_objects, weights=scored.weights)
        pooled = pooled_average_precision(chosen, correct, self.num_objects, weights=scored.weights)
        corrected = [one | {"score": float(score)} for one, score in zip(self.entries, scores, strict=True)]
        precision = evaluate_results(self.annotations_uri, corrected)["AP"]
        assert precision is not None
        return [ece(bins), ccece(bins), precision, pooled, found.recall]


def cross_validated_scores(results: Results, kind: str, *, num_bins: int, num_seeds: int) -> list[NDArray[np.float64]]:
    """Score all detections once per seed, with correctors that were fitted without the fold of the image."""
    scores = []
    for seed in range(num_seeds):
        context = results.context(num_bins=num_bins, seed=seed)
        folds = image_folds(results.detections.image_indices, seed=seed)
        scores.append(out_of_fold_scores(results.detections, folds, partial(fit_corrector, kind, context=context)))
    return scores


def unseen_scores(fitted_on: Results, judged: Results, kind: str, *, num_bins: int) -> list[NDArray[np.float64]]:
    """Score all detections of one set with the corrector that was fitted to the other set."""
    corrector = fit_corrector(kind, fitted_on.detections, context=fitted_on.context(num_bins=num_bins))
    return [corrector(judged.detections)]


def with_interval(
    values: NDArray[np.float64], weights: NDArray[np.float64], images: NDArray[np.int64], *, sign: str = ""
) -> str:
    """Format the weighted mean of values and its interval over images."""
    if not len(values):
        return "-"

    def mean(times: NDArray[np.float64]) -> float | None:
        total = weights @ times
        return float(weights * times @ values / total) if total else None

    low, high, _ = bootstrap_interval(mean, images)
    return f"{mean(np.ones(len(values))):{sign}.4f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
