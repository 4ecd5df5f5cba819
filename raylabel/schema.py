"""Arrow schemas of the files in a run folder: the contract between stages, and with users' tools."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.predictions.selection import REASONS

CONTEXT = pa.struct([(name, pa.float32()) for name in CONTEXT_FEATURES])
"""Features of a detection that come from the rest of its image. NaN stands for an unknown feature."""

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
"""One stored prediction.

`soft_classes` and `soft_probs` are the top k entries of the raw soft vector, with background as index `num_classes`.
The other entries share 1 - sum. Only `calibrated_score` depends on the corrector.
"""

LABELS = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("as_stored", pa.bool_()),
        ("status", pa.string()),
        ("instances", pa.list_(INSTANCE)),
        ("content", pa.uint64()),
    ]
)
"""labels/shard-*.parquet: one row per pool image.

`height` and `width` are those of the pixels that the model saw. `as_stored` is true if these are the stored pixels, and
false if they were turned by the EXIF orientation, as viewers show the image. Null stands for displayed pixels of an
image whose annotations were not known.

`status` is "ok", "in validation: " and the name of the validation image that the image equals, or the reason why the
image is quarantined. `content` is the digest of the image's file (`dataset.content`), null if the file was not read.
Shards of earlier versions lack `as_stored` and `content`, which means null.
"""

IMAGE_HEADERS = pa.schema(
    [("num_bytes", pa.int64()), ("changed_ns", pa.int64()), ("content", pa.uint64()), ("turn", pa.int8())]
)
"""data/headers-*.parquet: one row per image of a split, in the split's order.

`num_bytes` and `changed_ns` are the size and the time of change of the file when its header was read. Both are -1 if
the row tells nothing. `content` is the digest of the file (`dataset.content`), and `turn` a place in
`dataset.image_headers.TURNS`.
"""

VALIDATION_IMAGES = pa.schema([("content", pa.uint64()), ("file_name", pa.string())])
"""labels/validation.parquet: one row per validation image, sorted by content. Empty if the pool may have them."""

CLASS_FATES = pa.schema(
    [
        ("class_index", pa.int32()),
        ("name", pa.string()),
        ("frequency_group", pa.string()),
        ("num_predictions", pa.int64()),
        ("max_calibrated_score", pa.float64()),
        ("min_score", pa.float64()),
        ("num_kept", pa.int64()),
        *[(f"num_dropped_{reason}", pa.int64()) for reason in REASONS],
        ("most_frequent_reason", pa.string()),
    ]
)
"""labels/classes.parquet: one row per class, saying what became of its stored predictions.

`min_score` is the smallest calibrated score of a pseudo-label of the class, and `max_calibrated_score` the highest
score that a prediction reached. `num_dropped_*` count each dropped prediction for the first rule that drops it.
`most_frequent_reason` is the reason with the most of them, null if nothing was dropped.
"""

ERRORS = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("reason", pa.string())])
"""labels/errors.parquet: one row per quarantined image. labels/in_validation.parquet: one row per pool image that is
left out because a validation image has its content."""

SHARD_PHASES = ("read", "predict", "encode", "write")
"""Phases of a shard's time: waiting for images to be read and decoded, running the model, making rows (context,
corrector, encoding), and committing."""

SHARDS = pa.schema(
    [
        ("shard_id", pa.int32()),
        ("num_images", pa.int32()),
        ("num_instances", pa.int32()),
        ("num_quarantined", pa.int32()),
        ("num_in_validation", pa.int32()),
        ("seconds", pa.float32()),
        *[(f"{phase}_seconds", pa.float32()) for phase in SHARD_PHASES],
        ("host", pa.string()),
        ("finished_at", pa.float64()),
        ("num_bytes", pa.int64()),
    ]
)
"""labels/shards.parquet: one row per committed shard. `host` is the worker's host; `finished_at` is in seconds since
1970. `num_bytes` is the size of the shard's file, null in rows of earlier versions. The file is a cache: rows that it
lacks are in the metadata of the shards."""

PROTOTYPES = pa.schema(
    [("class_index", pa.int32()), ("num_instances", pa.int64()), ("embedding", pa.list_(pa.float32()))]
)
"""prototypes/prototypes.parquet: one row per class with its mean embedding of length 1, or zeros without an
instance."""

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
"""calibration/detections.parquet: one row per matched detection. `outcome` is the number of a `matching.Outcome`;
`mask_area` is in pixels."""


def context_to_arrow(context: NDArray[np.float32] | None, num_rows: int) -> pa.StructArray:
    """Turn a context matrix, (num_rows, F), into an array of CONTEXT. None gives rows in which every feature is
    unknown."""
    if context is None:
        context = np.full((num_rows, len(CONTEXT_FEATURES)), np.nan, dtype=np.float32)
    columns = [pa.array(np.ascontiguousarray(column)) for column in context.T]
    return pa.StructArray.from_arrays(columns, fields=list(CONTEXT))


def context_from_arrow(column: pa.StructArray | pa.ChunkedArray) -> NDArray[np.float32]:
    """Turn a column of CONTEXT into a matrix, (N, F) float32."""
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
"""calibration/bins.parquet: weighted counts per class and confidence bin, without the empty bins."""

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
"""calibration/classes.parquet: one row per class. `accuracy_low` and `accuracy_high` bound a 95% interval that accounts
for the number of images behind the detections. Figures of a class without a scored detection are null."""

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
"""labels/drift.parquet: one row per class, comparing its detections in the calibration split and in the pool.

`num_images_*` count the images with the class. `rate_ratio` divides the pool's detections per image by the calibration
split's. `accuracy` is the pool's accuracy as estimated from its scores. Figures are null with too few detections, and
for an infinite ratio.
"""


POOL_INDEX = pa.schema(
    [
        ("shard_id", pa.int32()),
        ("num_images", pa.int32()),
        ("num_kept", pa.int32()),
        ("sum_factors", pa.float64()),
    ]
)
"""student/pool_index.parquet: one row per shard that a student learns from.

`num_images` counts readable images, and `num_kept` the pseudo-labels that the student learns from. `sum_factors` is the
sum of the images' repeat factors: the number of draws from the shard per epoch. The metadata entry `class_factors` is a
JSON list: the repeat factor of each class.
"""


def nullable(values: NDArray[np.float64]) -> pa.Array:
    """Return a float64 column with null in place of NaN and infinity, because such figures are undefined."""
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))
