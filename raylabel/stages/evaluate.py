"""Stage 6: AP of every model on the validation split, and the quality of the pseudo-labels if their truth is known."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import Corrector, Detections, corrector_from_json
from raylabel.calibration.correctors.soft import correct_soft_vectors
from raylabel.cluster.map_shards import map_shards, row_shards
from raylabel.cluster.predictor import Predictor
from raylabel.cluster.progress_counter import live_progress
from raylabel.cluster.session import connect
from raylabel.cluster.shard_tasks import map_over_shards
from raylabel.config import Config, parse_config
from raylabel.dataset.image_errors import ImageError, unusable
from raylabel.errors import NoDetectionError
from raylabel.evaluation.average_precision import MIN_RESULT_SCORE, results_of_image
from raylabel.evaluation.evaluated_set import EvaluatedSet
from raylabel.evaluation.official import Verification, require_evaluators, verify_models
from raylabel.evaluation.pool_quality import match_labelled, measure_pool
from raylabel.evaluation.precision_intervals import JackknifedFigures, precision_intervals
from raylabel.evaluation.streamed_precision import StreamedPrecision
from raylabel.files.digests import digest
from raylabel.redaction import redacted
from raylabel.run.calibration import load_corrector
from raylabel.run.data import RunData, open_pool_truth, truth_match
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.labels.rows import InstanceRows
from raylabel.run.labels.shards import context_from_structs, instances_from_structs
from raylabel.run.learnt_from import SUPERVISED, learnt_from, student_arm
from raylabel.run.metrics import commit_metrics
from raylabel.run.model_card import commit_cards
from raylabel.run.models import BASELINE, STUDENT, TEACHER, has_model
from raylabel.run.rounds import (
    adopt_student,
    baseline_calibration,
    further_rounds,
    is_calibrated,
    round_config,
    round_run,
    student_calibration,
    student_correctors,
)
from raylabel.run.stage import execute_stage, finished
from raylabel.schema import INSTANCE
from raylabel.stages.run import run_one

FOLDER = stage_folder("evaluate")


PREDICTIONS = pa.schema(
    [
        ("row", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("instances", pa.list_(INSTANCE)),
    ]
)
"""Rows of one model's predictions of one image of the validation split."""


CORRECTED = "+corrector"
"""Suffix of a model's name: the model with the scores that its own corrector gives."""


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    labels = finished(run, "label")
    # Left out where the run's own labels say it, because earlier versions knew no other way.
    groups = {"frequency": "declared"} if data.measured_groups.source == "declared" else {}
    return groups | {
        "teacher": finished(run, "teacher")["fingerprint"],
        "student": finished(run, "distill")["fingerprint"],
        "labels": labels["fingerprint"],
        "pool": labels["pool_digest"],
        "corrector": labels["corrector_digest"],
        "selection": labels["selection_settings"],
        "validation": data.part_digest("validation"),
        "pool_truth": data.part_digest("pool_truth"),
        "predictions": [config.label.max_per_image, config.label.top_k, *config.label.later_inputs.values()],
        "rounds": [finished(one, "distill")["fingerprint"] for one in further_rounds(config, run).values()],
        "correctors": {name: digest(one.to_json()) for name, one in _correctors(config, run).items()},
    }


def _correctors(config: Config, run: RunFolder) -> dict[str, Corrector]:
    """Return the corrector of each student's and of the baseline's outputs, by the model's name."""
    fitted = {student_arm(number): one for number, one in student_correctors(config, run).items()}
    if has_model(run, BASELINE) and is_calibrated(baseline_calibration(run)):
        fitted[SUPERVISED] = baseline_calibration(run)
    return {name: load_corrector(one) for name, one in fitted.items()}


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return nothing: every setting of this stage makes it run again."""
    return {}


def run_stage(config: Config, run: RunFolder, *, verify: bool = False) -> dict[str, Any]:
    """Evaluate teacher, supervised baseline and the student of every round. Students also get corrected scores.

    Writes evaluation/metrics.json:

    - AP by LVIS's names (COCO's and APr/APc/APf for COCO data), with 95% intervals over the validation images.
    - What each model has learnt from: images and steps.
    - Whether the groups of APr, APc and APf are `declared` by the validation file, or counted in what was `labelled`.
    - Differences from the supervised baseline with their intervals. Without a baseline: from the teacher.
    - Calibration, precision and recall of the pseudo-labels, if the pool's truth is known.

    Args:
        config: the run's config.
        run: the run folder.
        verify: compare AP with the official evaluators, on a sample of the images if there are many
            (`sample.MAX_VERIFIED_DETECTIONS`). `verification` in metrics.json is the result, else null. A run stores no
            predictions of the validation split, so a run evaluated without `verify` is evaluated again.

    Raises:
        InputError: a model is not trained yet, or a validation image can't be read, or a model fails at it.
    """
    calibrate_models(config, run)
    data = RunData(config, run)
    if verify:
        require_evaluators()

    def measure(of_round: RunFolder) -> dict[str, Any] | None:
        return measure_pool(
            of_round,
            truth_match(data),
            calibration=config.calibration,
            selection=config.selection,
            max_pixels=config.data.max_image_pixels,
            open_truth=partial(open_pool_truth, data),
            map_groups=map_over_shards,
        )

    def work() -> dict[str, Any]:
        if match := truth_match(data):  # before the models predict
            match_labelled(run, match, max_pixels=config.data.max_image_pixels, map_groups=map_over_shards)
            if match.text():
                print(f"evaluate: WARNING: {match.text()}", flush=True)
        measured, verification = _evaluate_models(config, run, data, verify=verify)
        metrics = {
            **_precision(measured),
            "frequency": data.measured_groups.source,
            "learnt_from": {name: vars(one) for name, one in learnt_from(config, run)},
            "verification": verification.to_json() if verification else None,
            "pool": measure(run),
            "pool_of_rounds": {str(number): measure(one) for number, one in further_rounds(config, run).items()},
        }
        commit_metrics(run, metrics)
        return {"num_images": len(data.validation), "metrics": metrics}

    def is_complete(artifact: dict[str, Any]) -> bool:
        if doubt := doubtful_figures(run, artifact["metrics"]):
            print(f"evaluate: WARNING: {doubt}", flush=True)
        if not verify or artifact["metrics"].get("verification"):
            return True
        print("evaluate: finished before, but not verified; predicting again to verify", flush=True)
        return False

    artifact = execute_stage(run, "evaluate", inputs(config, run, data), work, is_complete=is_complete)
    commit_cards(config, run)
    return artifact


def doubtful_figures(run: RunFolder, metrics: dict[str, Any]) -> str:
    """Say that an earlier version measured the pool's labels without a look at their orientation, "" if none did."""
    pool = metrics.get("pool")
    if not pool or "num_other_orientation" in pool:
        return ""
    return (
        "an earlier version measured the pool's labels, also those of another orientation than their truth. To measure "
        f"again, move {redacted(run.path(FOLDER))} away."
    )


def calibrate_models(config: Config, run: RunFolder) -> None:
    """Fit correctors of the scores of the last student and of the supervised baseline, each in a nested run."""
    of_model = {"student": (round_run(run, config.student.rounds), STUDENT, student_calibration(run))}
    if has_model(run, BASELINE):
        of_model["supervised baseline"] = (run, BASELINE, baseline_calibration(run))
    for name, (trained_in, folder, calibrated) in of_model.items():
        print(f"evaluate: the {name} is calibrated in {redacted(calibrated.uri)}", flush=True)
        adopt_student(trained_in, calibrated, has_seen=config.student_has_seen_all, folder=folder)
        try:
            run_one("calibrate", round_config(config), calibrated)
        except NoDetectionError:
            print(
                f"evaluate: the {name} made no detection on the calibration split; its scores stay uncorrected",
                flush=True,
            )


def _evaluate_models(
    config: Config, run: RunFolder, data: RunData, *, verify: bool
) -> tuple[dict[str, JackknifedFigures], Verification | None]:
    connect()
    rounds = {1: run, **further_rounds(config, run)}
    models = {"teacher": (run, TEACHER), SUPERVISED: (run, BASELINE)}
    models |= {student_arm(number): (one, STUDENT) for number, one in rounds.items()}
    arms = {name: one.path(folder) for name, (one, folder) in models.items() if has_model(one, folder)}
    of_set: dict[str, Any] = {"frequency_groups": data.measured_groups.of_category, "has_sample": verify}
    precision = StreamedPrecision(EvaluatedSet(data.validation, **of_set))
    for matches in _match(config, run, len(data.validation), arms, of_set):
        precision.add(matches)
    found_of = precision.measured()
    names = [name for arm in arms for name in (arm, f"{arm}{CORRECTED}") if name in found_of]
    measured = {name: found_of[name] for name in names}
    if not verify:
        return measured, None
    return measured, verify_models(precision, {name: one.figures for name, one in measured.items()})


def _precision(measured: dict[str, JackknifedFigures]) -> dict[str, Any]:
    """Return the figures of every model, half widths of their intervals, and paired differences from a base model."""
    base = SUPERVISED if SUPERVISED in measured else "teacher"
    differences = {
        name: {figure: vars(interval) for figure, interval in precision_intervals(one, measured[base]).items()}
        for name, one in measured.items()
        if name != base
    }
    return {
        "validation": {name: one.figures for name, one in measured.items()},
        "validation_half_widths": {
            name: {figure: interval.half_width for figure, interval in precision_intervals(one).items()}
            for name, one in measured.items()
        },
        "validation_differences": {"from": base, "models": differences},
    }


def _match(
    config: Config, run: RunFolder, num_images: int, arms: dict[str, str], of_set: dict[str, Any]
) -> Iterator[pa.Table]:
    """Yield a table of MATCHES per shard of the validation split: every model on every image."""
    shards = row_shards(range(num_images), config.label.shard_size)
    with live_progress("evaluate", num_images * len(arms), unit="images", run=run, folder=FOLDER) as counter:
        yield from map_shards(
            EvaluateShard,
            config=config,
            worker_args={
                "run": run,
                "model_uris": arms,
                "correctors": {name: one.to_json() for name, one in _correctors(config, run).items()},
                "of_set": of_set,
                "counter": counter,
            },
            shards=shards,
            title=run.title("evaluate"),
        )


class EvaluateShard:
    """The actor's worker that predicts shards of the validation split with every model, and matches the predictions.

    Only match rows leave the worker, and the predictions of the sample that is verified.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any],
        run: RunFolder,
        model_uris: dict[str, str],
        correctors: dict[str, dict[str, Any]],
        of_set: dict[str, Any],
        counter: Any,
    ) -> None:
        parsed = parse_config(config)
        self._annotated = RunData(parsed, run).validation
        self._evaluated = EvaluatedSet(self._annotated, **of_set)
        self._predictors = {
            name: Predictor(
                uri,
                parsed.label,
                max_pixels=parsed.data.max_image_pixels,
                own_classes=parsed.own_classes,
                score_threshold=MIN_RESULT_SCORE,
            )
            for name, uri in model_uris.items()
        }
        self._correctors = {name: corrector_from_json(one) for name, one in correctors.items()}
        self._counter, self._label = counter, parsed.label

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        truth = self._evaluated.truth(shard["rows"])
        parts = []
        for arm, predictions in self.predict(shard):
            of_models: dict[str, dict[int | str, list[dict[str, Any]]]] = {}
            for one in predictions.to_pylist():
                image_id = self._annotated.images[one["row"]].image_id
                for name, of_image in self._results(arm, one, image_id):
                    of_models.setdefault(name, {})[image_id] = of_image
            parts += [self._evaluated.match(name, truth, of_images) for name, of_images in of_models.items()]
        return pa.concat_tables(parts)

    def predict(self, shard: dict[str, Any]) -> Iterator[tuple[str, pa.Table]]:
        """Yield the name and the rows of PREDICTIONS of every model."""
        images = [self._annotated.images[row] for row in shard["rows"]]
        sources = [image.source for image in images]
        for place, (arm, predictor) in enumerate(self._predictors.items()):
            # Correctors were fitted to detections from this score on.
            rows = InstanceRows(top_k=self._label.top_k, min_context_score=self._label.score_threshold)
            sizes_hw = []
            for image, found in zip(images, predictor(sources), strict=True):
                if isinstance(found, ImageError):
                    raise unusable(image.uri, found, kind="validation")
                rows.append(found)
                sizes_hw.append(found.image_size_hw)
                self._counter.report.remote(f"shard-{shard['shard_id']}", place * len(images) + len(sizes_hw))
            heights, widths = np.array(sizes_hw, dtype=np.int32).T
            columns = {
                "row": shard["rows"],
                "height": heights,
                "width": widths,
                "instances": rows.to_arrow(np.full(rows.lengths.sum(), np.nan)),
            }
            yield arm, pa.table(columns, schema=PREDICTIONS)

    def _results(
        self, arm: str, row: dict[str, Any], image_id: int | str
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the results of a row of PREDICTIONS by the model's scores, and by those of its corrector."""
        num_classes, category_ids = self._annotated.num_classes, self._annotated.category_ids
        found, _ = instances_from_structs(row["instances"], (row["height"], row["width"]), num_classes)
        yield arm, results_of_image(image_id, found.masks, found.soft_vectors, category_ids)
        if arm not in self._correctors:
            return
        detections = Detections.of_scores(
            found.class_indices,
            found.raw_scores,
            num_classes=num_classes,
            context=context_from_structs(row["instances"]),
        )
        corrected = correct_soft_vectors(found.soft_vectors, found.class_indices, self._correctors[arm](detections))
        yield f"{arm}{CORRECTED}", results_of_image(image_id, found.masks, corrected, category_ids)
