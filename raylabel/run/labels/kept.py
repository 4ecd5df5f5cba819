"""Pseudo-labels: the stored predictions that a run's selection keeps, for reports and export."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylabel.config import SelectionConfig
from raylabel.dataset.image_source import ImageSource
from raylabel.predictions.selection import select
from raylabel.run.classes import RunClasses, load_classes
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.run.labels.class_fates import ClassFates, load_class_fates
from raylabel.run.labels.shards import STATUS_OK, committed_shards, flat_instances, label_batches, read_fields
from raylabel.schema import LABELS

SELECTED_BY = {
    "calibrated_scores": "calibrated_score",
    "class_indices": "class_index",
    "mask_quality": "mask_quality",
    "mask_areas": "mask_area",
}
"""Argument of `select` -> field of `schema.INSTANCE`."""


@dataclass(frozen=True, kw_only=True)
class KeptImage:
    """A readable image of the pool and its pseudo-labels.

    Attributes:
        image_id: id of the image in the pool.
        uri: path or URI of the image.
        image_size_hw: height and width in pixels.
        as_stored: whether the labels are of the stored pixels; see `ImageSource`.
        structs: the image's pseudo-labels as rows of `schema.INSTANCE`, in the stored order.
        dropped: reason -> number of the image's predictions that were dropped for it.
    """

    image_id: str
    uri: str
    image_size_hw: tuple[int, int]
    as_stored: bool
    structs: list[dict[str, Any]]
    dropped: Counter[str]

    @property
    def source(self) -> ImageSource:
        """The image in the orientation of its labels."""
        return ImageSource(self.uri, self.image_size_hw, self.as_stored)


def kept_images(shard_uri: str, selection: SelectionConfig, frequency_groups: NDArray[np.str_]) -> Iterator[KeptImage]:
    """Yield the images of one committed shard after selection. Quarantined images are left out.

    Args:
        shard_uri: one of `shards.committed_shards`.
        selection: which predictions are kept.
        frequency_groups: (num_classes,) "r", "c" or "f".
    """
    for batch in label_batches(shard_uri):
        structs, lengths = flat_instances(batch["instances"])
        columns = _columns(structs)
        images = batch.drop_columns(["instances"]).to_pylist()
        for row, end, length in zip(images, np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
            if row["status"] == STATUS_OK:
                part = slice(end - length, end)
                of_image = {name: values[part] for name, values in columns.items()}
                chosen = select(**of_image, config=selection, frequency_groups=frequency_groups)
                yield KeptImage(
                    image_id=row["image_id"],
                    uri=row["uri"],
                    image_size_hw=(row["height"], row["width"]),
                    as_stored=bool(row["as_stored"]),
                    structs=structs[part].filter(pa.array(chosen.keep)).to_pylist(),
                    dropped=Counter(chosen.dropped),
                )


def kept_batches(
    shard_uri: str, selection: SelectionConfig, frequency_groups: NDArray[np.str_]
) -> Iterator[pa.RecordBatch]:
    """Stream the images of one committed shard that have a pseudo-label, as Arrow batches.

    The selection and the arguments are the same as for `kept_images`.

    Yields:
        Batches of schema.LABELS whose `instances` are the pseudo-labels alone, in the stored order.
    """
    for batch in selected_batches(shard_uri, selection, frequency_groups):
        labelled = batch.filter(pc.greater(pc.list_value_length(batch["instances"]), 0))
        if labelled.num_rows:
            yield labelled


def selected_batches(
    shard_uri: str, selection: SelectionConfig, frequency_groups: NDArray[np.str_]
) -> Iterator[pa.RecordBatch]:
    """Stream all images of one committed shard with the predictions that the selection keeps.

    The same as `kept_batches`, with the images that have no pseudo-label or can't be used.
    """
    column = LABELS.get_field_index("instances")
    for batch in label_batches(shard_uri):
        structs, lengths = flat_instances(batch["instances"])
        keep = select(
            **_columns(structs), config=selection, frequency_groups=frequency_groups, image_lengths=lengths
        ).keep
        num_kept = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[keep], minlength=len(lengths))
        offsets = np.concatenate([[0], np.cumsum(num_kept)]).astype(np.int32)
        kept = pa.ListArray.from_arrays(pa.array(offsets), structs.filter(pa.array(keep)))
        yield batch.set_column(column, LABELS.field(column), kept.cast(LABELS.field(column).type))


def count_class_fates(run: RunFolder, selection: SelectionConfig, classes: RunClasses) -> ClassFates:
    """Count per class what the selection makes of the predictions of all committed shards, and nothing else."""
    fates = ClassFates.none(classes.num_classes)
    for uri in committed_shards(run).values():
        table = read_fields(uri, ("status", *SELECTED_BY.values()))
        readable = table.filter(pc.equal(table["status"], STATUS_OK))
        fates += count_fates(readable, selection, classes.frequency_groups)
    return fates


def count_fates(readable: pa.Table, selection: SelectionConfig, frequency_groups: NDArray[np.str_]) -> ClassFates:
    """Count per class what the selection makes of the predictions of readable images, rows of schema.LABELS."""
    structs, lengths = flat_instances(readable["instances"])
    columns = _columns(structs)
    chosen = select(**columns, config=selection, frequency_groups=frequency_groups, image_lengths=lengths)
    return ClassFates.of(
        chosen, columns["class_indices"], columns["calibrated_scores"], num_classes=len(frequency_groups)
    )


def fates_of_classes(run: RunFolder) -> list[dict[str, Any]]:
    """Return the rows of schema.CLASS_FATES, the class with the fewest pseudo-labels first.

    Finished labels have them in a table. Otherwise the committed shards are counted. Empty if there are none.
    """
    table = load_class_fates(run)
    if table is None:
        if not committed_shards(run):
            return []
        selection, classes = load_run_config(run).selection, load_classes(run)
        table = count_class_fates(run, selection, classes).to_table(classes, selection)
    order = [("num_kept", "ascending"), ("num_predictions", "ascending"), ("class_index", "ascending")]
    return table.sort_by(order).to_pylist()


def _columns(structs: pa.StructArray) -> dict[str, NDArray[Any]]:
    return {argument: structs.field(name).to_numpy() for argument, name in SELECTED_BY.items()}
