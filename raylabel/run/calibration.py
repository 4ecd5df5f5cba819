"""A run's stored calibration: its detections and the corrector. Fitting the corrector needs no model."""

from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import (
    ClassAccuracy,
    Corrector,
    Detections,
    FitContext,
    ReliabilityBins,
    calibration_tables,
    corrector_from_json,
    fit_corrector,
)
from raylabel.calibration.correctors.file import commit_corrector, read_corrector_content
from raylabel.calibration.correctors.kinds import corrector_class
from raylabel.config import CalibrationConfig
from raylabel.errors import InputError
from raylabel.files.digests import digest
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.labels.histograms import labelled_pool, read_pool_histogram
from raylabel.run.prototypes import load_similarity
from raylabel.run.stage import finished
from raylabel.schema import context_from_arrow

FOLDER = stage_folder("calibrate")


def refit(run: RunFolder, settings: CalibrationConfig, *, seed: int) -> dict[str, Any]:
    """Fit the configured corrector on the stored detections. Only the tables, the corrector and the artifact change.

    Raises:
        InputError: the run is not calibrated yet.
    """
    artifact = finished(run, "calibrate")
    detections, image_ids = load_detections(run)
    artifact |= fit_and_commit(run, settings, detections, image_ids, load_accuracy(run), seed=seed)
    run.commit_artifact(FOLDER, artifact)
    print(f"{run.title('calibrate')}: fitted {settings.corrector} on the stored detections", flush=True)
    return artifact


def other_corrector(run: RunFolder, settings: CalibrationConfig) -> str | None:
    """Say in one line that the run has another corrector than the config asks for, as after `recalibrate`.

    None if both are the same kind, or if the run is not calibrated.
    """
    artifact = run.artifact(FOLDER) or {}
    there, asked = artifact.get("settings", {}).get("corrector"), settings.corrector
    if there is None or there == asked:
        return None
    return (
        f"calibration.corrector is {asked}, but the run has {there}; the config decides. To keep {there}, set "
        f"calibration.corrector: {there}."
    )


def fit_to_pool(run: RunFolder, settings: CalibrationConfig, *, seed: int) -> None:
    """Refit a corrector that uses the pool's scores, unless it was fitted to the pool that is labelled now."""
    if corrector_class(settings.corrector).uses_pool:
        pool = labelled_pool(run)
        if pool is not None and finished(run, "calibrate").get("pool") != pool:
            refit(run, settings, seed=seed)


def fit_settings(settings: CalibrationConfig, *, seed: int) -> dict[str, Any]:
    """Return the settings that a fit depends on besides the detections. The artifact stores them."""
    return {"corrector": settings.corrector, "num_bins": settings.num_bins, "seed": seed}


def load_corrector(run: RunFolder) -> Corrector:
    """Load the corrector that calibrate or recalibrate fitted.

    Raises:
        InputError: the run has no corrector yet, or its file is damaged or was changed.
    """
    uri = corrector_uri(run)
    try:
        return corrector_from_json(read_corrector_content(uri, remedy="Delete it and run calibrate again."))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{uri}: {error}") from error


def corrector_digest(run: RunFolder) -> str | None:
    """Return the digest of the fitted corrector, None if its file is missing."""
    return digest(load_corrector(run).to_json()) if exists(corrector_uri(run)) else None


def corrector_uri(run: RunFolder) -> str:
    """Return the path or URI of the fitted corrector."""
    return run.path(FOLDER, "corrector.json")


def load_detections(run: RunFolder) -> tuple[Detections, list[str]]:
    """Load the stored detections of the calibration split, and the image id of each image index."""
    return detections_from_table(load_detections_table(run), load_classes(run).num_classes)


def load_accuracy(run: RunFolder) -> ClassAccuracy:
    """Load the stored accuracy of each class. It does not depend on the corrector."""
    table = load_classes_table(run)
    columns = [table[name].to_numpy() for name in ("accuracy", "accuracy_low", "accuracy_high", "num_effective")]
    return ClassAccuracy(accuracy=columns[0], low=columns[1], high=columns[2], num_effective=columns[3])


def load_detections_table(run: RunFolder) -> pa.Table:
    """Read the detections of the calibration split as stored (schema.DETECTIONS)."""
    return read_table(run.path(FOLDER, "detections.parquet"))


def load_classes_table(run: RunFolder) -> pa.Table:
    """Read the figures of each class (schema.CLASSES)."""
    return read_table(run.path(FOLDER, "classes.parquet"))


def load_bins(run: RunFolder) -> ReliabilityBins:
    """Read the reliability bins of the raw scores."""
    return ReliabilityBins.from_table(read_table(run.path(FOLDER, "bins.parquet")))


def load_cross_validated_bins(run: RunFolder) -> ReliabilityBins | None:
    """Read the reliability bins of the corrected scores, each image corrected by a fit without it.

    None for a run that an early version calibrated.
    """
    uri = run.path(FOLDER, "bins_cross_validated.parquet")
    return ReliabilityBins.from_table(read_table(uri)) if exists(uri) else None


def detections_from_table(table: pa.Table, num_classes: int) -> tuple[Detections, list[str]]:
    """Convert rows of schema.DETECTIONS to detections, and return the image id of each image index."""
    image_ids, image_indices = np.unique(np.array(table["image_id"].to_pylist(), dtype=str), return_inverse=True)
    detections = Detections(
        num_classes=num_classes,
        class_indices=table["class_index"].to_numpy(),
        raw_scores=table["raw_score"].to_numpy().astype(np.float64),
        image_indices=image_indices.astype(np.int64),
        outcomes=table["outcome"].to_numpy(),
        weights=table["weight"].to_numpy().astype(np.float64),
        context=context_from_arrow(table["context"]),
        mask_areas=table["mask_area"].to_numpy(),
    )
    return detections, image_ids.tolist()


def fit_and_commit(
    run: RunFolder,
    settings: CalibrationConfig,
    detections: Detections,
    image_ids: list[str],
    accuracy: ClassAccuracy,
    *,
    seed: int,
) -> dict[str, Any]:
    """Fit the configured corrector, write its tables, and return the artifact's entries."""
    classes = load_classes(run)
    pool = labelled_pool(run) if corrector_class(settings.corrector).uses_pool else None
    context = FitContext(
        num_bins=settings.num_bins,
        frequency_groups=classes.frequency_groups,
        similarity=load_similarity(run),
        seed=seed,
        num_train_images=classes.num_train_images,
        pool_histogram=read_pool_histogram(run) if pool is not None else None,
    )
    corrector = fit_corrector(settings.corrector, detections, context=context)
    tables = calibration_tables(
        detections,
        image_ids=image_ids,
        corrector=corrector,
        context=context,
        class_names=classes.names,
        category_ids=classes.category_ids,
        num_train_images=classes.num_train_images,
        accuracy=accuracy,
    )
    # The corrector is written first, because `later` then sees an interruption between the tables.
    commit_corrector(corrector_uri(run), corrector, classes.category_ids)
    commit_table(run.path(FOLDER, "detections.parquet"), tables.detections)
    commit_table(run.path(FOLDER, "bins.parquet"), tables.bins)
    commit_table(run.path(FOLDER, "bins_cross_validated.parquet"), tables.cross_validated_bins.to_table())
    commit_table(run.path(FOLDER, "classes.parquet"), tables.classes)
    return tables.summary | {
        "settings": fit_settings(settings, seed=seed),
        "corrector_digest": digest(corrector.to_json()),
        "pool": pool,
    }
