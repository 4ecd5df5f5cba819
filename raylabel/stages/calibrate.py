"""Stage 3: match the teacher's detections on held-out images to the truth, bin them, and fit the corrector."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raylabel.calibration import (
    ClassAccuracy,
    Detections,
    ImagePredictions,
    ReliabilityBins,
    federated_accuracy,
    match_image,
    weigh_by_verification,
)
from raylabel.calibration.score_transfer import transfer_scores
from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.cluster.live_calibration import live_calibration
from raylabel.cluster.map_shards import map_shards, row_shards
from raylabel.cluster.predictor import Predictor
from raylabel.cluster.progress_counter import live_progress
from raylabel.cluster.session import connect
from raylabel.config import Config, config_dict, parse_config
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.image_errors import ImageError, unusable
from raylabel.errors import NoDetectionError
from raylabel.predictions.instances import instances_context
from raylabel.predictions.matching import verification_weights
from raylabel.run.calibration import (
    FOLDER,
    corrector_digest,
    detections_from_table,
    fit_and_commit,
    fit_settings,
    load_accuracy,
    load_detections,
    other_corrector,
    refit,
)
from raylabel.run.classes import load_classes
from raylabel.run.data import RunData, overlap
from raylabel.run.folder import RunFolder
from raylabel.run.labels.manifest import pool_images
from raylabel.run.model_card import commit_cards
from raylabel.run.models import TEACHER, fold_folder
from raylabel.run.rounds import has_seen_calibration
from raylabel.run.stage import execute_stage, finished
from raylabel.schema import DETECTIONS, context_to_arrow
from raylabel.stages.pool_sample import sample_pool, score_images
from raylabel.stages.training_jobs import describe_model, fold_rows, fold_teacher_job


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    if has_seen_calibration(run):
        images = {"carried_over": finished(run.outer, "calibrate")["fingerprint"], "pool": data.pool_source}
    elif config.calibration.folds:
        images = {"calibration": data.labelled_digest, "pool": data.pool_source}
    else:
        images = {"calibration": data.part_digest("calibration")}
    return {
        "teacher": finished(run, "teacher")["fingerprint"],
        **images,
        "folds": config.calibration.folds,
        "iou_threshold": config.calibration.iou_threshold,
        "score_threshold": config.label.score_threshold,
        "max_per_image": config.label.max_per_image,
        "seed": config.seed,
        **config.label.later_inputs,
    }


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return the settings of the fit, and the digest of the stored corrector.

    The digest reveals an interrupted refit: it leaves a corrector other than the artifact's, and only some tables.
    """
    return {
        "settings": fit_settings(config.calibration, seed=config.seed),
        "corrector_digest": corrector_digest(run),
    }


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Predict the calibration split, match the predictions, and fit the corrector.

    With `calibration.folds` k >= 2, k teachers are trained on k - 1 folds of the labelled set. Each predicts its
    held-out fold, and the detections get the scores that the teacher of all images would give. A nested run whose
    teacher has seen the split takes over the outer run's detections in the same way. Another corrector or number of
    bins is fitted on the stored detections, without a model.

    Raises:
        InputError: an image of the calibration split can't be read, or the teacher fails at it.
        NoDetectionError: the teacher made no detection on the calibration split.
    """
    data = RunData(config, run)

    def work() -> dict[str, Any]:
        if has_seen_calibration(run):
            num_split_images = finished(run.outer, "calibrate")["num_split_images"]
            gathered = _carry_over(config, run, data)
        else:
            num_split_images = len(data.labelled if config.calibration.folds else data.calibration)
            if not config.calibration.folds and (num_seen := overlap(data.calibration, data.labelled)):
                print(
                    f"{run.title('calibrate')}: WARNING: {num_seen} of {num_split_images} calibration images are "
                    "also in labelled, where the teacher has seen them",
                    flush=True,
                )
            gathered = _gather_detections(config, run, data)
        fitted = fit_and_commit(run, config.calibration, *gathered, seed=config.seed)
        return fitted | {"num_split_images": num_split_images}

    artifact = execute_stage(
        run,
        "calibrate",
        inputs(config, run, data),
        work,
        later=lambda: later(config, run),
        apply_later=lambda artifact: _refit(config, run),
    )
    commit_cards(config, run)
    return artifact


def _refit(config: Config, run: RunFolder) -> dict[str, Any]:
    """Fit the config's corrector on the stored detections. Say first if the run has another kind, see `recalibrate`."""
    difference = other_corrector(run, config.calibration)
    if difference:
        print(f"{run.title('calibrate')}: {difference}", flush=True)
    return refit(run, config.calibration, seed=config.seed)


class _Part(NamedTuple):
    """The images that one model predicts: rows of a split, in shards numbered over all parts."""

    model_uri: str
    split: str
    shards: list[dict[str, Any]]


def _gather_detections(config: Config, run: RunFolder, data: RunData) -> tuple[Detections, list[str], ClassAccuracy]:
    connect()
    if config.calibration.folds:
        _train_fold_teachers(config, run)
    num_classes, num_bins = data.labelled.num_classes, config.calibration.num_bins
    parts = _parts(config, run, data)
    tables: dict[int, pa.Table] = {}

    def recount(shard_id: int) -> pa.Table:
        detections, _ = detections_from_table(tables[shard_id], num_classes)
        return ReliabilityBins.from_detections(detections, num_bins).to_table()

    num_shards = sum(len(part.shards) for part in parts)
    with live_calibration(
        "calibrate",
        run=run,
        folder=FOLDER,
        num_bins=num_bins,
        num_shards=num_shards,
        is_matched=True,
        recount=recount,
    ) as live:
        for part in parts:
            for shard_id, table in _match_on_ray(config, run, part, live.actor):
                tables[shard_id] = table
                live.finished(shard_id)
    table = pa.concat_tables([tables[shard_id] for shard_id in sorted(tables)])
    table = table.sort_by([("image_id", "ascending"), ("raw_score", "descending")])
    if table.num_rows == 0:
        raise NoDetectionError("calibrate: the teacher made no detection on the calibration split. Train it longer.")
    detections, image_ids = detections_from_table(table, num_classes)
    annotated = data.labelled if config.calibration.folds else data.calibration
    row_of = {str(image_id): row for row, image_id in enumerate(annotated.images.ids())}
    rows = np.array([row_of[image_id] for image_id in image_ids], dtype=np.int64)
    if config.calibration.folds:
        detections = _on_teachers_scale(config, run, data, detections)
    by_row = replace(detections, image_indices=rows[detections.image_indices])
    # Weights get the stored precision, because a refit on the stored detections must be the same fit.
    weights = weigh_by_verification(by_row, annotated).weights.astype(np.float32).astype(np.float64)
    return replace(detections, weights=weights), image_ids, federated_accuracy(by_row, annotated)


def _carry_over(config: Config, run: RunFolder, data: RunData) -> tuple[Detections, list[str], ClassAccuracy]:
    """Take over the detections that calibrated the outer run, with the scores that this run's teacher would give."""
    connect()
    images = sample_pool(pool_images(run, data, shard_size=config.label.shard_size), seed=config.seed)
    source, target = score_images(config, run, [(run.outer.path(TEACHER), images), (run.path(TEACHER), images)])
    detections, image_ids = load_detections(run.outer)
    groups = load_classes(run).frequency_groups
    return (
        transfer_scores(detections, source, target, frequency_groups=groups),
        image_ids,
        load_accuracy(run.outer),
    )


def _on_teachers_scale(config: Config, run: RunFolder, data: RunData, detections: Detections) -> Detections:
    """Give the fold teachers' detections the scores that the teacher of all images would give."""
    images = sample_pool(pool_images(run, data, shard_size=config.label.shard_size), seed=config.seed)
    num_folds = config.calibration.folds
    asked = [(run.path(fold_folder(fold)), images[fold::num_folds]) for fold in range(num_folds)]
    *of_folds, of_teacher = score_images(config, run, [*asked, (run.path(TEACHER), images)])
    groups = load_classes(run).frequency_groups
    return transfer_scores(detections, Detections.concat(of_folds), of_teacher, frequency_groups=groups)


def _parts(config: Config, run: RunFolder, data: RunData) -> list[_Part]:
    num_folds = config.calibration.folds
    if not num_folds:
        shards = row_shards(range(len(data.calibration)), config.label.shard_size)
        return [_Part(run.path(TEACHER), "calibration", shards)]
    parts: list[_Part] = []
    for fold in range(num_folds):
        rows = fold_rows(len(data.labelled), fold, num_folds, config.seed).tolist()
        num_before = sum(len(part.shards) for part in parts)
        shards = [
            shard | {"shard_id": num_before + shard["shard_id"]} for shard in row_shards(rows, config.label.shard_size)
        ]
        parts.append(_Part(run.path(fold_folder(fold)), "labelled", shards))
    return parts


def _train_fold_teachers(config: Config, run: RunFolder) -> None:
    trainings = [
        Training(
            build=partial(fold_teacher_job, config_dict(config), run, fold),
            folder=fold_folder(fold),
            num_steps=config.teacher.steps,
            identity=[finished(run, "teacher")["fingerprint"], config.calibration.folds, fold],
            description=describe_model(config.teacher, f"teacher without fold {fold}"),
        )
        for fold in range(config.calibration.folds)
    ]
    train_on_ray(trainings, run=run, folder=FOLDER, settings=config.teacher, label="fold teachers")


def _match_on_ray(
    config: Config, run: RunFolder, part: _Part, calibration_actor: Any
) -> Iterator[tuple[int, pa.Table]]:
    """Yield shard ids and their rows of schema.DETECTIONS, in the order in which shards finish."""
    num_images = sum(len(shard["rows"]) for shard in part.shards)
    with live_progress("calibrate", num_images, unit="images", run=run, folder=FOLDER) as counter:
        for batch in map_shards(
            MatchShard,
            config=config,
            worker_args={
                "run": run,
                "model_uri": part.model_uri,
                "split": part.split,
                "counter": counter,
                "calibration_actor": calibration_actor,
            },
            shards=part.shards,
            title=run.title("calibrate"),
        ):
            for row in range(batch.num_rows):
                rows = batch["detections"].slice(row, 1).combine_chunks().flatten()
                yield batch["shard_id"][row].as_py(), pa.Table.from_struct_array(rows)


class MatchShard:
    """The actor's worker that predicts and matches shards of an annotated split."""

    def __init__(
        self,
        *,
        config: dict[str, Any],
        run: RunFolder,
        model_uri: str,
        split: str,
        counter: Any,
        calibration_actor: Any,
    ) -> None:
        self._config = parse_config(config)
        self._annotated: AnnotatedSet = getattr(RunData(self._config, run), split)
        self._class_weights = verification_weights(self._annotated)
        self._predictor = Predictor(
            model_uri,
            self._config.label,
            max_pixels=self._config.data.max_image_pixels,
            own_classes=self._config.own_classes,
        )
        self._counter, self._calibration_actor = counter, calibration_actor

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        rows = shard["rows"]
        parts, image_ids = [Detections.empty(self._annotated.num_classes)], []
        images = [self._annotated.images[row] for row in rows]
        predictions = self._predictor([image.source for image in images])
        for done, (row, image, found) in enumerate(zip(rows, images, predictions, strict=True)):
            if isinstance(found, ImageError):
                raise unusable(image.uri, found, kind="annotated")
            detections = match_image(
                self._annotated,
                row,
                ImagePredictions(found.class_indices, found.raw_scores, found.masks, instances_context(found)),
                class_weights=self._class_weights,
                iou_threshold=self._config.calibration.iou_threshold,
            )
            parts.append(detections)
            image_ids += [str(image.image_id)] * len(detections)
            self._counter.report.remote(f"shard-{shard['shard_id']}", done + 1)
        detections = Detections.concat(parts)
        bins = ReliabilityBins.from_detections(detections, self._config.calibration.num_bins)
        self._calibration_actor.add.remote(shard["shard_id"], bins.to_table())
        table = pa.table(
            {
                "image_id": image_ids,
                "class_index": detections.class_indices,
                "raw_score": detections.raw_scores.astype(np.float32),
                "calibrated_score": np.full(len(detections), np.nan, np.float32),
                "outcome": detections.known_outcomes,
                "weight": detections.weights.astype(np.float32),
                "mask_area": detections.mask_areas,
                "context": context_to_arrow(detections.context, len(detections)),
            },
            schema=DETECTIONS,
        )
        # One row per shard, because the driver must also hear of shards without a detection.
        offsets, rows_of_shard = pa.array([0, table.num_rows], pa.int32()), table.to_struct_array().combine_chunks()
        lists = pa.ListArray.from_arrays(offsets, rows_of_shard)
        return pa.table({"shard_id": [shard["shard_id"]], "detections": lists})
