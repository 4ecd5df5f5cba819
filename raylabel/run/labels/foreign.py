"""Shards of the labels' folder that other settings or data made: they are set aside, so that they are made again."""

import posixpath
from collections.abc import Sequence
from itertools import chain

from raylabel.files.moving import copy_file, remove
from raylabel.files.tables import read_table_metadata
from raylabel.redaction import redacted
from raylabel.run.folder import RunFolder
from raylabel.run.labels.ownership import is_own
from raylabel.run.labels.shards import committed_shards, shard_groups
from raylabel.threads import READING_THREADS, Map, map_on_threads


def set_aside_foreign(run: RunFolder, *, map_groups: Map = map_on_threads) -> list[int]:
    """Move the shards that do not belong to the run's labels to `superseded/`. Returns their ids.

    The metadata of every committed shard are read. `map_groups` does that on groups of shards.
    """
    shards = committed_shards(run)
    found = chain.from_iterable(map_groups(_makers_of_foreign, shard_groups(list(shards.values()))))
    foreign = {shard_id: maker for shard_id, maker in zip(shards, found, strict=True) if maker is not None}
    for shard_id, maker in foreign.items():
        uri = shards[shard_id]
        aside = run.path("superseded", f"labels-foreign-{maker}", posixpath.basename(uri))
        copy_file(uri, aside)
        remove(uri)
        print(
            f"{run.title('label')}: {redacted(uri)} was made with other settings or data; moved to {redacted(aside)}",
            flush=True,
        )
    return list(foreign)


def _makers_of_foreign(uris: Sequence[str]) -> list[str | None]:
    """Return the start of the fingerprint that made each foreign shard, and None for each shard of one's own."""
    metadata = map_on_threads(read_table_metadata, uris, num_threads=READING_THREADS)
    return [
        None if is_own(uri, one) else one.get("fingerprint", "unknown")[:8]
        for uri, one in zip(uris, metadata, strict=True)
    ]
