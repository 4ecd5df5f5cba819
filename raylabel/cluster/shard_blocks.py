"""Shards as blocks of a Ray data set, one a block, so that any actor can take it.

Thousands of blocks that are made beforehand take seconds and the driver's memory, so they are cut from a few, and only
as they are needed. This module imports little: the process that cuts loads no more than it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray

_SHARDS_A_BLOCK = 256


def shard_blocks(shards: Sequence[Mapping[str, Any]]) -> ray.data.Dataset:
    """A data set of one column, `shard`, that holds JSON; a block a row."""
    blocks: list[Any] = [
        ray.put(pa.table({"shard": [json.dumps(shard) for shard in shards[start : start + _SHARDS_A_BLOCK]]}))
        for start in range(0, len(shards), _SHARDS_A_BLOCK)
    ]
    whole = ray.data.from_arrow_refs(blocks)
    whole.context.target_max_block_size = 1  # so that Ray doesn't put the pieces together again
    # No CPU: actors may hold all that a machine has, and Ray would wait in silence.
    return whole.map_batches(_cut, batch_size=None, batch_format="pyarrow", num_cpus=0)


def _cut(shards: pa.Table) -> Iterator[pa.Table]:
    for row in range(len(shards)):
        yield shards.slice(row, 1)
