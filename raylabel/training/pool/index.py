"""The pool index, one row per shard: number of draws, and number of images with each class.

It is made once before training, from a few columns of the committed shards. Besides the shards of its open windows, a
worker holds only the index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.sampling import repeat_factors_of_counts
from raylabel.files.storage import commit_table, exists, read_table
from raylabel.progress import Progress
from raylabel.run.labels.shards import shard_groups
from raylabel.schema import POOL_INDEX
from raylabel.threads import Map, map_on_threads
from raylabel.training.pool.choice import ChosenShard, PoolChoice, read_chosen


@dataclass(frozen=True, kw_only=True)
class PoolIndex:
    """The committed shards of a pool, by position.

    Attributes:
        shard_ids: (num_shards,) the ids that `shards.committed_shards` gives.
        shard_factors: (num_shards,) sum of the repeat factors of each shard's images.
        class_factors: (num_classes,) repeat factor of each class.
        num_images, num_kept: readable images and chosen instances of all shards.
    """

    shard_ids: NDArray[np.int64]
    shard_factors: NDArray[np.float64]
    class_factors: NDArray[np.float64]
    num_images: int
    num_kept: int

    @staticmethod
    def from_table(table: pa.Table, *, num_classes: int, threshold: float) -> "PoolIndex":
        """Read an index from rows of `schema.POOL_INDEX`."""
        num_images = int(np.sum(table["num_images"].to_numpy(), dtype=np.int64))
        return PoolIndex(
            shard_ids=table["shard_id"].to_numpy().astype(np.int64),
            shard_factors=table["sum_factors"].to_numpy(),
            class_factors=_class_factors(table, num_images, num_classes, threshold),
            num_images=num_images,
            num_kept=int(np.sum(table["num_kept"].to_numpy(), dtype=np.int64)),
        )


def ensure_index(
    uri: str,
    shards: Mapping[int, str],
    choice: PoolChoice,
    *,
    threshold: float,
    label: str,
    map_groups: Map = map_on_threads,
) -> PoolIndex:
    """Read the index of the pool, and write it first if it is not there.

    Args:
        uri: file to read or write (schema.POOL_INDEX).
        shards, choice, threshold, map_groups: see `index_pool`.
        label: name on the progress line.
    """
    if not exists(uri):
        with Progress(label, len(shards) * (2 if threshold else 1), unit="shards") as progress:
            table = index_pool(shards, choice, threshold=threshold, progress=progress.update, map_groups=map_groups)
            commit_table(uri, table)
    return PoolIndex.from_table(read_table(uri), num_classes=choice.num_classes, threshold=threshold)


def index_pool(
    shards: Mapping[int, str],
    choice: PoolChoice,
    *,
    threshold: float,
    progress: Callable[[int], None] = lambda num_shards: None,
    map_groups: Map = map_on_threads,
) -> pa.Table:
    """Index the pool as rows of `schema.POOL_INDEX`.

    This takes two passes over a few columns of the shards. An image's factor depends on how often its classes occur in
    the whole pool, so the first pass counts them.

    Args:
        shards: shard id -> file.
        choice: the rules by which instances are chosen.
        threshold: threshold of repeat-factor sampling; 0 repeats nothing and saves the second pass.
        progress: receives the number of shards read so far; each shard counts once per pass.
        map_groups: does the work on groups of shards.
    """
    rows: list[dict[str, object]] = []
    shard_ids, groups = iter(shards), shard_groups(list(shards.values()))
    for counts in map_groups(partial(_counts, choice=choice), groups):
        rows += [{"shard_id": next(shard_ids), **of_shard} for of_shard in counts]
        progress(len(rows))
    table = pa.Table.from_pylist(rows, schema=POOL_INDEX)
    if threshold == 0 or not rows:
        return table
    num_images = int(np.sum(table["num_images"].to_numpy(), dtype=np.int64))
    class_factors = _class_factors(table, num_images, choice.num_classes, threshold)

    sums = list[float]()
    for of_group in map_groups(partial(_sum_factors, choice=choice, class_factors=class_factors), groups):
        sums += of_group
        progress(len(rows) + len(sums))
    return table.set_column(table.schema.get_field_index("sum_factors"), POOL_INDEX.field("sum_factors"), [sums])


def _counts(uris: Sequence[str], *, choice: PoolChoice) -> list[dict[str, object]]:
    return [_counts_of_shard(read_chosen(uri, choice)) for uri in uris]


def _counts_of_shard(shard: ChosenShard) -> dict[str, object]:
    seen = np.unique(np.stack([shard.image_of, shard.class_of]), axis=1)
    classes, images = np.unique(seen[1], return_counts=True)
    return {
        "num_images": shard.num_images,
        "num_kept": len(shard.class_of),
        "sum_factors": float(shard.num_images),
        "classes": classes.tolist(),
        "class_images": images.tolist(),
    }


def _sum_factors(uris: Sequence[str], *, choice: PoolChoice, class_factors: NDArray[np.float64]) -> list[float]:
    # cumsum like PoolStream, because its running sums must end exactly at the sum in the index.
    return [float(np.cumsum(read_chosen(uri, choice).image_factors(class_factors))[-1:].sum()) for uri in uris]


def _class_factors(table: pa.Table, num_images: int, num_classes: int, threshold: float) -> NDArray[np.float64]:
    classes, images = (table[name].combine_chunks().flatten().to_numpy() for name in ("classes", "class_images"))
    counts = np.bincount(classes, weights=images, minlength=num_classes)
    return repeat_factors_of_counts(counts, num_images=num_images, threshold=threshold)
