"""What does a correction of a student's outputs do to AP? Each kind of corrector, and two rules for the other classes.

    PYTHONPATH=tests/support python benchmarks/output_correction.py "RUN"

RUN is a finished run, such as `runs/distillation/mixed-240/seed-31/2 folds, augmented` of `distillation.py`. Correctors
are fitted to the detections that calibrate the run's student. `shared` is what raylabel does: all other entries share
what the predicted class loses, in their proportions. `to background` gives it to the background alone.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raylabel.calibration import Corrector, Detections
from raylabel.calibration.correctors.base import FitContext
from raylabel.calibration.correctors.kinds import fit_corrector
from raylabel.calibration.correctors.soft import correct_soft_vectors
from raylabel.config import Config, load_config
from raylabel.dataset.image_source import read_source
from raylabel.evaluation.average_precision import MIN_RESULT_SCORE, evaluate_results, results_of_image
from raylabel.models.predict import predict_images
from raylabel.models.saved import load_segmenter
from raylabel.predictions.instances import Instances
from raylabel.run.calibration import load_detections
from raylabel.run.classes import load_classes
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.rows import InstanceRows
from raylabel.run.labels.shards import context_from_structs
from raylabel.run.models import STUDENT
from raylabel.run.prototypes import load_similarity
from raylabel.run.rounds import student_calibration

KINDS = ("temperature", "isotonic", "marginal", "hierarchical", "contextual")
Rule = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder(arguments.run)
    config = load_config(run.path("config.yaml"))
    data, classes = RunData(config), load_classes(run)
    found, structs = predictions(run, config, data)
    annotations, groups = data.validation.to_json(), data.measured_groups.of_category

    def figures(corrector: Corrector | None, rule: Rule) -> str:
        results: list[dict[str, Any]] = []
        for image, instances, of_image in zip(data.validation.images, found, structs.to_pylist(), strict=True):
            soft_vectors = instances.soft_vectors
            if corrector is not None:
                detections = Detections.of_scores(
                    instances.class_indices,
                    instances.raw_scores,
                    num_classes=classes.num_classes,
                    context=context_from_structs(of_image),
                )
                soft_vectors = rule(soft_vectors, instances.class_indices, corrector(detections))
            results += results_of_image(image.image_id, instances.masks, soft_vectors, classes.category_ids)
        measured = evaluate_results(annotations, results, frequency_groups=groups)
        return f"{100 * measured['AP']:.1f} / {100 * (measured['APr'] or np.nan):.1f}"

    print(f"{'AP / APr':<14}{'shared':>14}{'to background':>16}")
    print(f"{'raw':<14}{'':>14}{figures(None, to_background):>16}", flush=True)
    detections, _ = load_detections(student_calibration(run))
    context = FitContext(
        num_bins=config.calibration.num_bins,
        frequency_groups=classes.frequency_groups,
        similarity=load_similarity(run),
        seed=config.seed,
        num_train_images=classes.num_train_images,
        pool_histogram=None,
    )
    for kind in KINDS:
        corrector = fit_corrector(kind, detections, context=context)
        print(
            f"{kind:<14}{figures(corrector, correct_soft_vectors):>14}{figures(corrector, to_background):>16}",
            flush=True,
        )


def predictions(run: RunFolder, config: Config, data: RunData) -> tuple[list[Instances], pa.Array]:
    """Predict the validation images with the student, as `evaluate` does. Return the results and their stored form."""
    segmenter, _ = load_segmenter(run.path(STUDENT), config.own_classes)
    rows = InstanceRows(top_k=config.label.top_k, min_context_score=config.label.score_threshold)
    found: list[Instances] = []
    for image in data.validation.images:
        pixels = torch.from_numpy(read_source(image.source, max_pixels=config.data.max_image_pixels))
        with torch.inference_mode():
            found += predict_images(
                segmenter,
                [pixels.permute(2, 0, 1).float() / 255],
                score_threshold=MIN_RESULT_SCORE,
                max_per_image=config.label.max_per_image,
                mask_quality=config.label.mask_quality,
            )
        rows.append(found[-1])
    return found, rows.to_arrow(np.full(rows.lengths.sum(), np.nan))


def to_background(
    soft_vectors: NDArray[Any], class_indices: NDArray[np.integer], scores: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Give what the predicted class loses to the background. Take what it gains from all others, in proportion."""
    rows, corrected = np.arange(len(soft_vectors)), np.array(soft_vectors, dtype=np.float64)
    raw_scores = corrected[rows, class_indices]
    corrected[rows, class_indices] = 0
    corrected *= np.minimum(1, (1 - scores) / np.maximum(1 - raw_scores, 1e-12))[:, None]
    corrected[rows, class_indices] = scores
    corrected[:, -1] += np.maximum(1 - corrected.sum(axis=1), 0)
    return corrected.astype(np.float32)


if __name__ == "__main__":
    main()
