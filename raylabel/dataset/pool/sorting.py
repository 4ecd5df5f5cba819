"""External merge sort of pool images by id. Memory does not depend on the number of images."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from raylabel.dataset.pool.image import PoolImage

POOL_IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("refusal", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("as_stored", pa.bool_()),
    ]
)
"""Schema of a table of pool images: the fields of `PoolImage`. Tables of earlier versions end with `refusal`."""

RUN_LENGTH = 100_000
"""Number of images that are sorted in memory at once."""

_BATCH_LENGTH = 512
"""Number of images per sorted run that are in memory during the merge."""


def sort_images(images: Iterable[PoolImage], *, run_length: int = RUN_LENGTH) -> Iterator[PoolImage]:
    """Yield the same images in order of their ids, compared by code points.

    Sorted runs are kept in a local temporary folder. They take about as many bytes as the ids and URIs.
    """
    remaining = iter(images)
    first = _sorted_table(islice(remaining, run_length))
    if first.num_rows < run_length:
        yield from images_of(first)
        return
    with tempfile.TemporaryDirectory(prefix="raylabel-pool-") as folder:
        runs: list[Path] = []
        table = first
        while table.num_rows:
            runs.append(Path(folder, f"{len(runs)}.arrow"))
            with pa.OSFile(str(runs[-1]), "wb") as sink, pa.ipc.new_file(sink, POOL_IMAGES) as writer:
                writer.write_table(table, max_chunksize=_BATCH_LENGTH)
            table = _sorted_table(islice(remaining, run_length))
        yield from heapq.merge(*map(_read_run, runs), key=lambda image: image.image_id)


def images_to_table(images: Iterable[PoolImage]) -> pa.Table:
    """Turn images into rows of POOL_IMAGES."""
    rows = [(one.image_id, one.uri, one.refusal, one.height, one.width, one.as_stored) for one in images]
    columns = list(zip(*rows, strict=True)) or [()] * len(POOL_IMAGES)
    return pa.table(columns, schema=POOL_IMAGES)


def images_of(table: pa.Table | pa.RecordBatch) -> Iterator[PoolImage]:
    """Turn rows of POOL_IMAGES into images."""
    return map(PoolImage, *(column.to_pylist() for column in table.columns))


def _sorted_table(images: Iterable[PoolImage]) -> pa.Table:
    return images_to_table(images).sort_by("image_id")


def _read_run(path: Path) -> Iterator[PoolImage]:
    # Opened again per batch, because a pool of 10^8 images has more runs than a process may have open files.
    number, num_batches = 0, 1
    while number < num_batches:
        with pa.OSFile(str(path)) as source:
            reader = pa.ipc.open_file(source)
            num_batches = reader.num_record_batches
            batch = reader.get_batch(number)
        yield from images_of(batch)
        number += 1
