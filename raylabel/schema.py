"""Arrow schemas of the files in a run folder: the contract between stages and with users' own tools."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.predictions.context import CONTEXT_FEATURES

CONTEXT = pa.struct([(name, pa.float32()) for name in CONTEXT_FEATURES])
"""What else the image says of a detection; NaN for a feature that is not known."""

INSTANCE = pa.struct(
    [
        ("class_index", pa.int32()),
        ("raw_score", pa.float32()),
        ("calibrated_score", pa.float32()),
        ("box_xyxy", pa.list_(pa.float32(), 4)),
        ("mask_counts", pa.binary()),
        ("mask_area", pa.int32()),
        ("mask_quality", pa.float32()),
        ("soft_classes", pa.list_(pa.int32())),
        ("soft_probs", pa.list_(pa.float32())),
        ("context", CONTEXT),
    ]
)
"""One stored prediction. `soft_classes`/`soft_probs` are the top k of the raw soft vector (background as index
`num_classes`); the remainder is 1 - sum. Only `calibrated_score` depends on the corrector."""

LABELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("status", pa.string()),
        ("instances", pa.list_(INSTANCE)),
    ]
)
"""labels/shard-*.parquet: one row an image of the pool; `status` is "ok", or why the image is quarantined."""

ERRORS = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("reason", pa.string())])
"""labels/errors.parquet: quarantined images."""

SHARD_PHASES = ("read", "predict", "encode", "write")
"""What the seconds of a shard go into: images waited for (read and decoded), the model, rows (context, corrector,
encoding), the commit."""

SHARDS = pa.schema(
    [
        ("shard_id", pa.int32()),
        ("num_images", pa.int32()),
        ("num_instances", pa.int32()),
        ("num_quarantined", pa.int32()),
        ("seconds", pa.float32()),
        *[(f"{phase}_seconds", pa.float32()) for phase in SHARD_PHASES],
        ("host", pa.string()),
        ("finished_at", pa.float64()),
    ]
)
"""labels/shards.parquet: one row a committed shard; `host` is its worker's, `finished_at` in seconds since 1970. A
cache: what it lacks is in the shard's metadata."""

PROTOTYPES = pa.schema(
    [("class_index", pa.int32()), ("num_instances", pa.int64()), ("embedding", pa.list_(pa.float32()))]
)
"""prototypes/prototypes.parquet: one row a class; the unit-length mean, zeros for a class without an instance."""

DETECTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("class_index", pa.int32()),
        ("raw_score", pa.float32()),
        ("calibrated_score", pa.float32()),
        ("outcome", pa.int8()),
        ("weight", pa.float32()),
        ("mask_area", pa.int32()),
        ("context", CONTEXT),
    ]
)
"""calibration/detections.parquet: one row a matched detection; `outcome` is matching.Outcome's number, `mask_area` in
pixels."""


def context_to_arrow(context: NDArray[np.float32] | None, num_rows: int) -> pa.StructArray:
    """A context matrix, (num_rows, F), as an array of CONTEXT; all unknown where it is None."""
    if context is None:
        context = np.full((num_rows, len(CONTEXT_FEATURES)), np.nan, dtype=np.float32)
    columns = [pa.array(np.ascontiguousarray(column)) for column in context.T]
    return pa.StructArray.from_arrays(columns, fields=list(CONTEXT))


def context_from_arrow(column: pa.StructArray | pa.ChunkedArray) -> NDArray[np.float32]:
    """Back to a matrix, (N, F) float32."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.column_stack([array.field(name).to_numpy(zero_copy_only=False) for name in CONTEXT_FEATURES])


BINS = pa.schema(
    [
        ("class_index", pa.int32()),
        ("bin", pa.int32()),
        ("num", pa.float64()),
        ("sum_confidence", pa.float64()),
        ("num_correct", pa.float64()),
        ("num_ignored", pa.float64()),
    ]
)
"""calibration/bins.parquet: weighted counts per class and confidence bin; empty bins are left out."""

CLASSES = pa.schema(
    [
        ("class_index", pa.int32()),
        ("category_id", pa.int64()),
        ("name", pa.string()),
        ("frequency_group", pa.string()),
        ("num_train_images", pa.int64()),
        ("num_detections", pa.int64()),
        ("num_effective", pa.float64()),
        ("accuracy", pa.float64()),
        ("accuracy_low", pa.float64()),
        ("accuracy_high", pa.float64()),
        ("bias", pa.float64()),
        ("ccece", pa.float64()),
        ("ccece_calibrated", pa.float64()),
    ]
)
"""calibration/classes.parquet: one row a class; `accuracy_low/high` is a 95 % interval that knows how few images
the detections come from, figures of a class without a scored detection are null."""

DRIFT = pa.schema(
    [
        ("class_index", pa.int32()),
        ("num_calibration", pa.int64()),
        ("num_pool", pa.int64()),
        ("num_images_calibration", pa.int64()),
        ("num_images_pool", pa.int64()),
        ("psi", pa.float64()),
        ("psi_null", pa.float64()),
        ("psi_p_value", pa.float64()),
        ("scores_drifted", pa.bool_()),
        ("rate_ratio", pa.float64()),
        ("rate_ratio_low", pa.float64()),
        ("rate_ratio_high", pa.float64()),
        ("rate_p_value", pa.float64()),
        ("rate_drifted", pa.bool_()),
        ("accuracy", pa.float64()),
        ("accuracy_low", pa.float64()),
        ("accuracy_high", pa.float64()),
    ]
)
"""labels/drift.parquet: one row a class, of all its detections in the calibration split and in the pool. `num_images_*`
are images with the class, `rate_ratio` is of detections an image (pool by calibration), `accuracy` is the pool's as
estimated from its scores; null where there are too few detections, and for an infinite ratio."""


POOL_INDEX = pa.schema(
    [
        ("shard_id", pa.int32()),
        ("num_images", pa.int32()),
        ("num_kept", pa.int32()),
        ("sum_factors", pa.float64()),
        ("classes", pa.list_(pa.int32())),
        ("class_images", pa.list_(pa.int32())),
    ]
)
"""student/pool_index.parquet: one row a shard that a student learns from. Readable images and pseudo-labels that it
learns from; the sum of the images' repeat factors, which is the shard's draws an epoch; and of each class that is
there, in how many images."""


def nullable(values: NDArray[np.float64]) -> pa.Array:
    """Float64 column with null for NaN and infinity: a figure that can't be had."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))
