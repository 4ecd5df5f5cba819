"""Compare federated with full truth on the generated set: accuracy per class, and correction of pool labels.

    python benchmarks/federated.py --out runs/federated --seeds 5

For each seed it generates the set, trains the demo's teacher, calibrates, and labels the pool. A second call skips the
finished stages. Then it estimates the accuracy of each class on the calibration split: plain, with Horvitz-Thompson
weights of the mistakes, and as the product does. The target is the accuracy of the same detections under full truth. It
repeats this for other shares of unknown pairs, each with many new draws of the annotations. Last, it prints the NLL of
the pool's labels, raw and with every kind of corrector.
"""

import argparse
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration import (
    CORRECTOR_KINDS,
    ClassAccuracy,
    Detections,
    ImagePredictions,
    federated_accuracy,
    match_image,
    scored_accuracy,
)
from raylabel.cluster.predictor import Predictor
from raylabel.config import Config
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.dataset.synthetic.federated import federate
from raylabel.dataset.synthetic.generate import generate
from raylabel.demo import NUM_IMAGES, demo_config
from raylabel.evaluation.pool_quality import measure_pool
from raylabel.predictions.matching import verification_weights
from raylabel.run.data import RunData, truth_match
from raylabel.run.folder import RunFolder
from raylabel.stages.label import recalibrate
from raylabel.stages.run import run_one

UNKNOWN_SHARES = (0.0, 0.05, 0.15, 0.3)
METHODS = ("plain", "Horvitz-Thompson", "estimated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, one run per seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=20, help="new annotations per share of unknown pairs")
    arguments = parser.parse_args()

    runs = [prepare(arguments.out.absolute() / f"seed-{seed}", seed) for seed in range(arguments.seeds)]
    report_accuracy(runs, arguments.draws)
    report_pool(runs)


def prepare(out: Path, seed: int) -> tuple[Config, RunFolder]:
    """Generate, train, calibrate and label. Finished stages are skipped."""
    generate(out / "data", num_images=NUM_IMAGES, seed=seed)
    config, run = demo_config(out / "data", seed), RunFolder(str(out))
    for stage in ("prototypes", "teacher", "calibrate", "label"):
        run_one(stage, config, run)
    return config, run


def report_accuracy(runs: list[tuple[Config, RunFolder]], num_draws: int) -> None:
    """Print bias and coverage of the estimates, for the annotations of the set and for new draws."""
    print("\nAccuracy per class on the calibration split: mean error, root mean square error, share of classes whose")
    print("95% interval contains the full truth, mean width of the intervals")
    print(f"{'unknown':<9}{'seed':<6}{'classes':>8}" + "".join(f"{name:>32}" for name in METHODS))
    anew: dict[float, list[NDArray[np.float64]]] = {share: [] for share in UNKNOWN_SHARES}
    for seed, (config, run) in enumerate(runs):
        root = config.data.images
        annotated = read_annotations(str(config.data.calibration), images_root=root)
        truth = read_annotations(str(config.data.calibration).replace(".json", "_full.json"), images_root=root)
        found = list(
            Predictor(run.path("teacher"), config.label, max_pixels=config.data.max_image_pixels, own_classes=())(
                [one.source for one in truth.images]
            )
        )
        predictions = [ImagePredictions(one.class_indices, one.raw_scores, one.masks) for one in found]
        full = match(truth, predictions)
        num = np.bincount(full.class_indices, minlength=full.num_classes)
        target = np.bincount(full.class_indices, full.is_correct, full.num_classes) / np.maximum(num, 1)
        rows = judge(annotated, predictions, target)
        print(f"{'as is':<9}{seed:<6}{int(rows[0, 4]):>8}" + cells(rows), flush=True)
        for share in UNKNOWN_SHARES:
            for again in annotate_anew(truth, share, num_draws):
                anew[share].append(judge(again, predictions, target))
    for share, of_share in anew.items():
        rows = np.stack(of_share)
        mean = np.mean(rows, axis=0)
        print(f"{share:<9.0%}{'all':<6}{mean[0, 4]:>8.1f}" + cells(mean), flush=True)
        passed = (rows[:, :, 2] >= 0.9).mean(axis=0)
        print(f"{'':<15}{'>= 90%:':>8}" + "".join(f"{f'in {one:.0%} of draws':>32}" for one in passed), flush=True)


def match(annotated: AnnotatedSet, predictions: list[ImagePredictions]) -> Detections:
    """Match all images, with the Horvitz-Thompson weights of matching."""
    class_weights = verification_weights(annotated)
    return Detections.concat(
        [match_image(annotated, row, one, class_weights=class_weights) for row, one in enumerate(predictions)]
    )


def judge(
    annotated: AnnotatedSet, predictions: list[ImagePredictions], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Judge every method. Returns an array of shape (methods, 5).

    The columns are mean error, root mean square error, coverage, mean width of the intervals, and number of classes
    with a figure. Coverage is the share of classes whose interval contains the target.
    """
    detections = match(annotated, predictions)
    estimates: list[ClassAccuracy] = [
        scored_accuracy(replace(detections, weights=np.ones(len(detections)))),
        scored_accuracy(detections),
        federated_accuracy(detections, annotated),
    ]
    rows = []
    for one in estimates:
        known = np.isfinite(one.accuracy)
        errors, has = (one.accuracy - target)[known], ((one.low <= target) & (target <= one.high))[known]
        width = (one.high - one.low)[known].mean()
        rows.append((errors.mean(), np.sqrt((errors**2).mean()), has.mean(), width, known.sum()))
    return np.array(rows)


def cells(rows: NDArray[np.float64]) -> str:
    return "".join(f"{f'{mean:+.3f}  {rms:.3f}  {has:.1%}  {width:.2f}':>32}" for mean, rms, has, width, _ in rows)


def annotate_anew(truth: AnnotatedSet, unknown_share: float, num_draws: int) -> Iterator[AnnotatedSet]:
    """Draw federated annotations of a fully annotated set."""
    objects = [[truth.class_index_of[one["category_id"]] for one in of_image] for of_image in truth.annotations]
    for draw in range(num_draws):
        federated = federate(objects, truth.num_classes, [draw, 2], unknown_share=unknown_share)
        yield AnnotatedSet.of_records(
            images=tuple(
                replace(
                    image,
                    negative_classes=frozenset(one.negative_classes),
                    not_exhaustive_classes=frozenset(one.not_exhaustive_classes),
                )
                for image, one in zip(truth.images, federated, strict=True)
            ),
            categories=truth.categories,
            annotations=tuple(
                tuple(of_image[index] for index in one.kept)
                for of_image, one in zip(truth.annotations, federated, strict=True)
            ),
            is_federated=True,
        )


def report_pool(runs: list[tuple[Config, RunFolder]]) -> None:
    """Print the NLL of the pool's labels with every kind of corrector. The runs end with `auto`."""
    kinds = [kind for kind in CORRECTOR_KINDS if kind not in ("none", "auto")] + ["auto"]
    print("\nNLL of the pool's labels against their hidden truth, raw and per corrector")
    print(f"{'seed':<6}{'raw':>8}" + "".join(f"{kind:>20}" for kind in kinds) + "  auto chose")
    gains = []
    for seed, (config, run) in enumerate(runs):
        values, chosen = [], ""
        for kind in kinds:
            with redirect_stdout(StringIO()):
                recalibrate(run, kind)
            measured = measure_pool(
                run,
                truth_match(RunData(config)),
                calibration=config.calibration,
                selection=config.selection,
                max_pixels=config.data.max_image_pixels,
            )
            assert measured is not None, "the generated set includes the truth of its pool"
            raw, corrected = measured["raw"]["nll"], measured["calibrated"]["nll"]
            values.append(corrected)
            artifact = run.artifact("calibration")
            chosen = artifact["corrector_chosen"] if artifact else ""
        gains.append([raw - value for value in values])
        print(f"{seed:<6}{raw:>8.4f}" + "".join(f"{value:>20.4f}" for value in values) + f"  {chosen}", flush=True)
    print(
        f"{'better in':<14}"
        + "".join(f"{f'{sum(one > 0 for one in column)} of {len(runs)}':>20}" for column in zip(*gains, strict=True))
    )


if __name__ == "__main__":
    main()
