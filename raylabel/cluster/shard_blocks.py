"""Shards as blocks of a Ray data set, one shard per block, so that any actor can take it.

Blocks are cut from a few large ones when they are needed, because thousands of prepared blocks take seconds and the
driver's memory. This module imports little, because the cutting process loads nothing else.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray

_SHARDS_A_BLOCK = 256


def shard_blocks(shards: Sequence[Mapping[str, Any]]) -> ray.data.Dataset:
    """Build a data set with one column, `shard`, that holds JSON. Each block has one row."""
    blocks: list[Any] = [
        ray.put(pa.table({"shard": [json.dumps(shard) for shard in shards[start : start + _SHARDS_A_BLOCK]]}))
        for start in range(0, len(shards), _SHARDS_A_BLOCK)
    ]
    whole = ray.data.from_arrow_refs(blocks)
    whole.context.target_max_block_size = 1  # so that Ray doesn't merge the pieces again
    # No CPU, because actors may hold all CPUs of a machine, and Ray would then wait silently. `repartition` needs one.
    return whole.map_batches(_cut, batch_size=None, batch_format="pyarrow", num_cpus=0)


def _cut(shards: pa.Table) -> Iterator[pa.Table]:
    for row in range(len(shards)):
        yield shards.slice(row, 1)
