"""Predictions as rows of the label shards' schema, one row per image, read as the entries of a results file.

`schema.LABELS` defines the columns. The metadata of the file say what the rows do not: the categories, and whether the
scores are corrected.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.errors import InputError
from raylabel.masks.rle import Rle
from raylabel.predictions.context import MODEL_FEATURES
from raylabel.predictions.result_entry import result_entry

_INSTANCES = "instances"
_CATEGORIES, _NAMES, _CORRECTED = "category_ids", "class_names", "is_corrected"


def label_metadata(
    *, category_ids: Sequence[int], class_names: Sequence[str], is_corrected: bool
) -> dict[str | bytes, str | bytes]:
    """Return the metadata of a file of predictions: category id and name of each class, and what its scores are."""
    content = {_CATEGORIES: list(category_ids), _NAMES: list(class_names), _CORRECTED: is_corrected}
    return {name: json.dumps(value) for name, value in content.items()}


def has_label_rows(schema: pa.Schema) -> bool:
    """Tell whether a file has one row per image."""
    return _INSTANCES in schema.names


def check_label_metadata(schema: pa.Schema, where: str) -> None:
    """Check that a file with one row per image is a file of predictions.

    Raises:
        InputError: it is a label shard of a run, or another file.
    """
    if _CATEGORIES.encode() not in (schema.metadata or {}):
        raise InputError(
            f"{where}: has a column {_INSTANCES}, but no {_CATEGORIES} in its metadata. Files of `raylabel predict` "
            "have them; `raylabel export` writes those of a run."
        )


def label_entries(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the predictions of some images as entries. Images are named by their id."""
    category_ids, is_corrected = (json.loads(rows.schema.metadata[name.encode()]) for name in (_CATEGORIES, _CORRECTED))
    return [
        result_entry(
            image_id=image["image_id"],
            category_id=category_ids[one["class_index"]],
            mask=Rle(size=[image["height"], image["width"]], counts=one["mask_counts"]),
            box_xyxy=one["box_xyxy"],
            scores=(one["calibrated_score"], one["raw_score"]),
            features={name: one["context"][name] for name in MODEL_FEATURES},
            is_corrected=is_corrected,
        )
        for image in rows.to_pylist()
        for one in image[_INSTANCES] or ()
    ]


def num_label_entries(rows: pa.RecordBatch) -> int:
    """Return the number of predictions of some images."""
    return len(rows[_INSTANCES].flatten())


def with_calibrated_scores(rows: pa.RecordBatch, scores: NDArray[np.float64]) -> pa.RecordBatch:
    """Return the same images with these calibrated scores, (N,) for their N predictions."""
    lists = rows[_INSTANCES]
    flat, name = lists.flatten(), "calibrated_score"
    columns = [
        pa.array(scores, field.type) if field.name == name else flat.field(index)
        for index, field in enumerate(flat.type)
    ]
    structs = pa.StructArray.from_arrays(columns, fields=list(flat.type))
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    place = rows.schema.get_field_index(_INSTANCES)
    changed = rows.set_column(
        place, rows.schema.field(place), pa.ListArray.from_arrays(offsets, structs).cast(lists.type)
    )
    return changed.replace_schema_metadata(rows.schema.metadata | {_CORRECTED.encode(): json.dumps(True)})
