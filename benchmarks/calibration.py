"""Cross-validated NLL of every corrector on any detector's results file, over all classes and over the rare ones.

    python benchmarks/calibration.py --predictions results.json --annotations instances.json

Folds are by image; the figures are means over seeds, in parentheses the standard deviation over seeds.
"""

import argparse
import time
from functools import partial

import numpy as np

from raylabel.calibration import (
    CORRECTOR_KINDS,
    FitContext,
    ReliabilityBins,
    ccece,
    ece,
    fit_corrector,
    image_folds,
    nll,
    out_of_fold_scores,
)
from raylabel.dataset.annotations import read_annotations
from raylabel.external import read_detections


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", required=True, help="COCO/LVIS results JSON with masks")
    parser.add_argument("--annotations", required=True, help="COCO or LVIS JSON")
    parser.add_argument("--min-score", type=float, default=0.05, help="detections below it are left out after matching")
    parser.add_argument("--rare-images", type=int, default=5, help="a class in at most so many images counts as rare")
    parser.add_argument("--num-bins", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3, help="repetitions with other folds")
    arguments = parser.parse_args()

    annotated = read_annotations(arguments.annotations)
    matched = read_detections(arguments.predictions, annotated)
    detections = matched.subset(matched.raw_scores >= arguments.min_score).scored()
    is_rare = (annotated.class_image_counts() <= arguments.rare_images)[detections.class_indices]
    correct, weights = detections.is_correct, detections.weights
    print(
        f"{len(detections)} detections with score >= {arguments.min_score:g} ({correct.mean():.1%} correct), "
        f"{is_rare.sum()} of classes in <= {arguments.rare_images} images; 5 folds by image, {arguments.seeds} seeds"
    )
    print(f"{'corrector':<14}{'NLL all':>16}{'NLL rare':>16}{'ECE':>9}{'CCECE':>9}{'seconds':>10}")
    for kind in CORRECTOR_KINDS:
        rows, start = [], time.perf_counter()
        for seed in range(arguments.seeds):
            context = FitContext(num_bins=arguments.num_bins, frequency_groups=annotated.frequency_groups(), seed=seed)
            folds = image_folds(detections.image_indices, seed=seed)
            scores = out_of_fold_scores(detections, folds, partial(fit_corrector, kind, context=context))
            bins = ReliabilityBins.from_detections(detections, arguments.num_bins, scores)
            rare_nll = nll(scores[is_rare], correct[is_rare], weights[is_rare]) if is_rare.any() else np.nan
            rows.append((nll(scores, correct, weights), rare_nll, ece(bins), ccece(bins)))
        seconds = (time.perf_counter() - start) / arguments.seeds
        mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        both = [f"{mean[place]:.4f} ({spread[place]:.4f})" for place in (0, 1)]
        print(f"{kind:<14}{both[0]:>16}{both[1]:>16}{mean[2]:>9.4f}{mean[3]:>9.4f}{seconds:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
