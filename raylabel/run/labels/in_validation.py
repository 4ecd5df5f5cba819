"""Pool images with the content of a validation image. They get no pseudo-labels, so that no student learns from them.

labels/validation.parquet holds the contents of the validation images, so that workers compare each image that they read
anyway. Shards keep the contents of their images. Another validation split is therefore applied to committed shards
without reading an image of the pool again.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylabel.dataset.content import Contents
from raylabel.dataset.image_headers import examine_images, unusable_images
from raylabel.files.digests import digest
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.progress import Progress
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import HISTOGRAM_BINS, expected_bins, histogram_to_json
from raylabel.run.labels.ledger import forget_ledger
from raylabel.run.labels.shards import (
    IN_VALIDATION,
    LABELS_FOLDER,
    STATUS_OK,
    committed_shards,
    flat_instances,
    read_fields,
    read_shard,
    shard_groups,
)
from raylabel.schema import LABELS, VALIDATION_IMAGES
from raylabel.threads import Map, map_on_threads


def is_compared(run: RunFolder, data: RunData) -> bool:
    """Tell whether the labels were compared with the validation split of the config."""
    uri = _validation_uri(run)
    return exists(uri) and read_table_metadata(uri)["source"] == _source(data)


def ensure_compared(run: RunFolder, data: RunData, *, num_classes: int, map_groups: Map = map_on_threads) -> None:
    """Write the contents of the validation images for the workers, and leave such images out of committed shards.

    Does nothing if that was done before. With `data.validation_in_pool: keep` nothing is compared. Shards that earlier
    versions made have no contents and stay the same.

    Args:
        run: the run folder.
        data: the run's data.
        num_classes: classes without background.
        map_groups: does the work on groups of committed shards.

    Raises:
        InputError: a validation image can't be read.
    """
    if is_compared(run, data):
        return
    contents = _contents_of_validation(run, data)
    if len(contents):
        leave_out = partial(_leave_out_of_shards, contents=contents, num_classes=num_classes)
        changed = list(map_groups(leave_out, shard_groups(list(committed_shards(run).values()))))
        if any(changed):
            forget_ledger(run)  # because its rows have the counts from before
    rows = pa.table({"content": contents.digests, "file_name": pa.array(contents.names)}, schema=VALIDATION_IMAGES)
    # Last, because an interrupted comparison must start again.
    commit_table(_validation_uri(run), rows.replace_schema_metadata({"source": _source(data)}))


def compare_with_nothing(run: RunFolder) -> None:
    """Let workers compare the images with no other image."""
    commit_table(_validation_uri(run), VALIDATION_IMAGES.empty_table().replace_schema_metadata({"source": "nothing"}))


def read_validation(run: RunFolder) -> Contents:
    """Read the contents of the validation images. Empty if the pool is not compared with them."""
    rows = read_table(_validation_uri(run))
    return Contents(rows["content"].to_numpy(), rows["file_name"].to_pylist())


def _source(data: RunData) -> str:
    settings = data.config.data
    if settings.validation_in_pool == "keep":
        return settings.validation_in_pool
    return digest([data.part_digest("validation"), settings.images])


def _contents_of_validation(run: RunFolder, data: RunData) -> Contents:
    if data.config.data.validation_in_pool == "keep":
        return Contents(np.zeros(0, np.uint64), [])
    images = data.validation.images
    with Progress(f"{run.title('label')}: validation images", len(images)) as progress:
        found = examine_images(images, max_pixels=data.config.data.max_image_pixels, on_image=progress.update)
    if found.unusable:
        raise unusable_images("validation", found.unusable, len(images))
    return found.contents


def _leave_out_of_shards(uris: Sequence[str], *, contents: Contents, num_classes: int) -> bool:
    changed = [_leave_out(uri, contents, num_classes=num_classes) for uri in uris]
    return any(changed)


def _leave_out(uri: str, contents: Contents, *, num_classes: int) -> bool:
    """Leave the images with these contents out of a committed shard. Returns whether there are any."""
    seen = read_fields(uri, ("status", "content"))
    if "content" not in seen.column_names:
        return False
    is_in = pc.is_in(seen["content"], pa.array(contents.digests))
    found: NDArray[np.bool_] = pc.and_(is_in, pc.equal(seen["status"], STATUS_OK)).to_numpy()
    if found.any():
        table = read_shard(uri)
        commit_table(uri, _without(table, found, contents, num_classes=num_classes))
    return bool(found.any())


def _without(table: pa.Table, left_out: NDArray[np.bool_], contents: Contents, *, num_classes: int) -> pa.Table:
    structs, lengths = flat_instances(table["instances"])
    kept = structs.filter(pa.array(~np.repeat(left_out, lengths)))
    offsets = np.concatenate([[0], np.cumsum(np.where(left_out, 0, lengths))]).astype(np.int32)
    statuses = [
        in_validation(contents, content) or status if is_out else status
        for content, status, is_out in zip(
            table["content"].to_pylist(), table["status"].to_pylist(), left_out, strict=True
        )
    ]
    columns = {
        "height": np.where(left_out, 0, table["height"].to_numpy()),
        "width": np.where(left_out, 0, table["width"].to_numpy()),
        "status": statuses,
        "instances": pa.ListArray.from_arrays(pa.array(offsets), kept).cast(LABELS.field("instances").type),
    }
    metadata = table.schema.metadata
    for name, values in columns.items():
        field = LABELS.field(name)
        values = values if isinstance(values, pa.Array) else pa.array(values, field.type)
        table = table.set_column(table.schema.get_field_index(name), field, values)
    bins = expected_bins(table, num_classes=num_classes, num_bins=HISTOGRAM_BINS).to_table()
    before = int(metadata[b"num_in_validation"])
    return table.replace_schema_metadata(
        metadata
        | {
            b"num_instances": str(len(kept)),
            b"num_in_validation": str(before + int(left_out.sum())),
            b"histogram": histogram_to_json(bins),
        }
    )


def in_validation(contents: Contents, content: int) -> str | None:
    """Return the status of an image with this content. None if no validation image has it."""
    name = contents.name(content)
    return None if name is None else f"{IN_VALIDATION}: {name}"


def _validation_uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, "validation.parquet")
