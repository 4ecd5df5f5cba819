"""Stored predictions: a run's committed shards, and instances read from their rows (`rows` writes them).

Readers of a shard raise ForeignShardError if the shard does not belong to the labels in whose folder it lies.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylabel.files.reading import list_files
from raylabel.files.stored_file import StoredFile
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.masks.rle import Rle
from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.labels.ownership import check_own
from raylabel.schema import LABELS

LABELS_FOLDER = stage_folder("label")
STATUS_OK = "ok"
IN_VALIDATION = "in validation"
"""Start of the status of an image that is left out because a validation image has its content."""

ROWS_AT_A_TIME = 64
"""Images per batch when a shard is streamed."""

_SHARDS_AT_A_TIME = 16
"""Shards that one task reads. Enough to hide what a task costs, few enough to share a pool of some thousand shards."""


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One image of the pool with the teacher's predictions.

    Attributes:
        image_id: id of the image in the pool.
        uri: path or URI of the image.
        status: "ok", or why the image is quarantined or left out. Such an image has no instances.
        instances: every stored prediction, before selection.
        calibrated_scores: (N,) float32, calibrated scores of the predicted classes.
    """

    image_id: str
    uri: str
    status: str
    instances: Instances
    calibrated_scores: NDArray[np.float32]


def instances_from_structs(
    structs: Sequence[dict[str, Any]], image_size_hw: tuple[int, int], num_classes: int
) -> tuple[Instances, NDArray[np.float32]]:
    """Build instances and their calibrated scores from stored rows.

    The probability mass that was not stored is spread evenly over the other entries of the soft vector.
    """
    num = len(structs)
    soft_vectors = np.zeros((num, num_classes + 1), np.float32)
    for row, struct in enumerate(structs):
        probs = np.asarray(struct["soft_probs"], np.float32)
        num_missing = num_classes + 1 - len(probs)
        soft_vectors[row] = max(0.0, 1.0 - float(probs.sum())) / num_missing if num_missing else 0.0
        soft_vectors[row, struct["soft_classes"]] = probs
    soft_vectors /= np.maximum(soft_vectors.sum(axis=1, keepdims=True), 1e-12)
    instances = Instances(
        image_size_hw=image_size_hw,
        boxes_xyxy=np.array([struct["box_xyxy"] for struct in structs], np.float32).reshape(num, 4),
        masks=tuple(Rle(size=list(image_size_hw), counts=struct["mask_counts"]) for struct in structs),
        class_indices=np.array([struct["class_index"] for struct in structs], np.int32),
        raw_scores=np.array([struct["raw_score"] for struct in structs], np.float32),
        soft_vectors=soft_vectors,
        mask_quality=np.array([struct["mask_quality"] for struct in structs], np.float32),
    )
    return instances, np.array([struct["calibrated_score"] for struct in structs], np.float32)


def flat_instances(lists: pa.ListArray | pa.ChunkedArray) -> tuple[pa.StructArray, NDArray[np.int64]]:
    """Flatten the instances of many rows of schema.LABELS to one array of schema.INSTANCE, and count them per row."""
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    return lists.flatten(), lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)


def foreground_probs(structs: pa.StructArray, num_classes: int) -> NDArray[np.float32]:
    """Compute the probability that rows of schema.INSTANCE are any object at all, shape (N,).

    It is 1 - background in the raw soft vector. If the background entry is not stored, it gets an even share of the
    mass that was not stored.
    """
    lists = structs.field("soft_probs")
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    rows = np.repeat(np.arange(len(structs)), lengths)
    probs = lists.flatten().to_numpy().astype(np.float64)
    is_background = structs.field("soft_classes").flatten().to_numpy() == num_classes
    sums = np.bincount(rows, weights=probs, minlength=len(structs))
    rest, num_missing = np.maximum(0.0, 1.0 - sums), num_classes + 1 - lengths
    background = np.where(num_missing > 0, rest / np.maximum(num_missing, 1), 0.0)
    background[rows[is_background]] = probs[is_background]
    total = sums + np.where(num_missing > 0, rest, 0.0)
    return (1.0 - background / np.maximum(total, 1e-12)).astype(np.float32)


def context_from_structs(structs: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    """Read the stored context of rows of schema.INSTANCE, shape (N, len(CONTEXT_FEATURES))."""
    rows = [[struct["context"][name] for name in CONTEXT_FEATURES] for struct in structs]
    return np.array(rows, np.float32).reshape(len(structs), len(CONTEXT_FEATURES))


def is_quarantined(status: str) -> bool:
    """Tell whether an image with this status could not be labelled."""
    return status != STATUS_OK and not status.startswith(IN_VALIDATION)


def shard_uri(run: RunFolder, shard_id: int) -> str:
    """Return the path or URI of a shard's file. The shard is committed when this file appears."""
    return run.path(LABELS_FOLDER, f"shard-{shard_id:08d}.parquet")


def commit_shard(run: RunFolder, shard_id: int, rows: pa.Table, metadata: Mapping[str, Any]) -> int:
    """Commit a shard: rows of schema.LABELS, with counts and digests as metadata of the same file.

    Returns:
        The size of the file in bytes.
    """
    texts = {name: str(value) for name, value in metadata.items()}
    return commit_table(shard_uri(run, shard_id), rows.replace_schema_metadata(texts))


def shard_sizes(run: RunFolder) -> dict[int, int]:
    """Return shard id -> size in bytes of the file of every committed shard, in order. Lists the folder."""
    found = list_files(run.path(LABELS_FOLDER), suffix=".parquet")
    return {
        int(info.base_name.removeprefix("shard-").removesuffix(".parquet")): info.size
        for info in found
        if info.base_name.startswith("shard-")
    }


def committed_shards(run: RunFolder) -> dict[int, str]:
    """Return shard id -> file of every committed shard, in order."""
    return {shard_id: shard_uri(run, shard_id) for shard_id in shard_sizes(run)}


def shard_groups(uris: Sequence[str]) -> list[tuple[str, ...]]:
    """Cut files of shards into groups, the items of work that goes over many shards (`threads.Map`)."""
    return [tuple(uris[start : start + _SHARDS_AT_A_TIME]) for start in range(0, len(uris), _SHARDS_AT_A_TIME)]


def read_shard_metadata(shard_uri: str) -> dict[str, str]:
    """Read the counts and digests of a committed shard, without its rows."""
    metadata = read_table_metadata(shard_uri)
    check_own(shard_uri, metadata)
    return metadata


def read_shard(shard_uri: str) -> pa.Table:
    """Read a committed shard whole: rows of schema.LABELS, with counts and digests as metadata."""
    table = read_table(shard_uri)
    check_own(shard_uri, metadata_texts(table.schema))
    return table


@contextmanager
def _opened(shard_uri: str) -> Iterator[pq.ParquetFile]:
    with StoredFile(shard_uri) as file:
        shard = pq.ParquetFile(file)
        check_own(shard_uri, metadata_texts(shard.schema_arrow))
        yield shard


def metadata_texts(schema: pa.Schema) -> dict[str, str]:
    """Return the metadata of a table's schema as texts."""
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}


def read_fields(shard_uri: str, fields: Collection[str]) -> pa.Table:
    """Read some fields of every row of a committed shard. No other bytes of the file are read.

    Args:
        shard_uri: one of `committed_shards`.
        fields: names of columns of schema.LABELS, and of fields of schema.INSTANCE inside `instances`.
    """
    with _opened(shard_uri) as shard:
        paths = [shard.schema.column(index).path for index in range(len(shard.schema))]
        return shard.read([path for path in paths if _field(path) in fields])


def label_batches(shard_uri: str) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a committed shard, a few images at a time. Columns that earlier versions lacked are null."""
    with _opened(shard_uri) as shard:
        for batch in shard.iter_batches(ROWS_AT_A_TIME):
            columns = [
                batch[field.name] if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
                for field in LABELS
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=LABELS)


def _field(path: str) -> str:
    """Return the field at a Parquet path: `raw_score` for instances.list.element.raw_score, `uri` for uri."""
    column, *inner = path.split(".")
    return inner[2] if column == "instances" and len(inner) > 2 else column


def labelled_images(shard_uri: str, num_classes: int) -> Iterator[LabelledImage]:
    """Yield the images of one committed shard, quarantined images included.

    Args:
        shard_uri: one of `committed_shards`.
        num_classes: length of the soft vectors without background.
    """
    for row in read_shard(shard_uri).to_pylist():
        instances, calibrated_scores = instances_from_structs(
            row["instances"] or [], (row["height"], row["width"]), num_classes
        )
        yield LabelledImage(
            image_id=row["image_id"],
            uri=row["uri"],
            status=row["status"],
            instances=instances,
            calibrated_scores=calibrated_scores,
        )
