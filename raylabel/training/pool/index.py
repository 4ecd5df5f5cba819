"""The pool index, one row per shard: number of images and of draws. Its metadata have the repeat factors of classes.

It is made once before training, from a few columns of the committed shards. Besides the shards of its open windows, a
worker holds only the index.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.sampling import repeat_factors_of_counts
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table
from raylabel.progress import Progress
from raylabel.run.labels.shards import shard_groups
from raylabel.schema import POOL_INDEX
from raylabel.threads import Map, map_on_threads
from raylabel.training.pool.choice import PoolChoice, read_chosen

_CLASS_FACTORS = b"class_factors"


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
    def from_table(table: pa.Table) -> "PoolIndex":
        """Read an index from rows of `schema.POOL_INDEX`."""
        return PoolIndex(
            shard_ids=table["shard_id"].to_numpy().astype(np.int64),
            shard_factors=table["sum_factors"].to_numpy(),
            class_factors=np.array(json.loads(table.schema.metadata[_CLASS_FACTORS])),
            num_images=int(np.sum(table["num_images"].to_numpy(), dtype=np.int64)),
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
    table = read_table(uri) if exists(uri) else None
    # Indexes of earlier versions have the classes of each shard instead.
    if table is None or _CLASS_FACTORS not in (table.schema.metadata or {}):
        with Progress(label, len(shards) * (2 if threshold else 1), unit="shards") as progress:
            table = index_pool(shards, choice, threshold=threshold, progress=progress.update, map_groups=map_groups)
            commit_table(uri, table)
    return PoolIndex.from_table(table)


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
    groups = shard_groups(list(shards.values()))
    num_images, num_kept, class_images = list[int](), list[int](), np.zeros(choice.num_classes)
    for images_of_group, kept_of_group, classes_of_group in map_groups(partial(_counts, choice=choice), groups):
        num_images += images_of_group
        num_kept += kept_of_group
        class_images += classes_of_group
        progress(len(num_images))
    class_factors = repeat_factors_of_counts(class_images, num_images=sum(num_images), threshold=threshold)
    sum_factors = [float(num) for num in num_images]
    if threshold and shards:
        sum_factors = _sums(groups, choice, class_factors, progress=progress, map_groups=map_groups)
    columns = {"shard_id": list(shards), "num_images": num_images, "num_kept": num_kept, "sum_factors": sum_factors}
    table = pa.table(columns, schema=POOL_INDEX)
    return table.replace_schema_metadata({_CLASS_FACTORS: json.dumps(class_factors.tolist())})


def _sums(
    groups: Sequence[tuple[str, ...]],
    choice: PoolChoice,
    class_factors: NDArray[np.float64],
    *,
    progress: Callable[[int], None],
    map_groups: Map,
) -> list[float]:
    num_shards = sum(map(len, groups))
    sums = list[float]()
    for of_group in map_groups(partial(_sum_factors, choice=choice, class_factors=class_factors), groups):
        sums += of_group
        progress(num_shards + len(sums))
    return sums


def _counts(uris: Sequence[str], *, choice: PoolChoice) -> tuple[list[int], list[int], NDArray[np.int64]]:
    """Count images and chosen instances of each shard, and the images of all shards with each class, (num_classes,)."""
    num_images, num_kept, class_images = list[int](), list[int](), np.zeros(choice.num_classes, np.int64)
    for uri in uris:
        shard = read_chosen(uri, choice)
        num_images.append(shard.num_images)
        num_kept.append(len(shard.class_of))
        images_with = np.unique(np.stack([shard.image_of, shard.class_of]), axis=1)[1]
        class_images += np.bincount(images_with, minlength=choice.num_classes)
    return num_images, num_kept, class_images


def _sum_factors(uris: Sequence[str], *, choice: PoolChoice, class_factors: NDArray[np.float64]) -> list[float]:
    # cumsum like PoolStream, because its running sums must end exactly at the sum in the index.
    return [float(np.cumsum(read_chosen(uri, choice).image_factors(class_factors))[-1:].sum()) for uri in uris]
