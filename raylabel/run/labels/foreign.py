"""Shards of the labels' folder that other settings or data made: they are set aside, so that they are made again."""

import posixpath

from raylabel.files.storage import commit_bytes, read_bytes, read_table_metadata, remove
from raylabel.redaction import redacted
from raylabel.run.folder import RunFolder
from raylabel.run.labels.ownership import is_own
from raylabel.run.labels.shards import committed_shards
from raylabel.threads import READING_THREADS, map_on_threads


def set_aside_foreign(run: RunFolder) -> list[int]:
    """Move the shards that do not belong to the run's labels to `superseded/`. Returns their ids.

    The metadata of every committed shard are read.
    """
    shards = committed_shards(run)
    metadata = map_on_threads(read_table_metadata, list(shards.values()), num_threads=READING_THREADS)
    foreign = {
        shard_id: one for (shard_id, uri), one in zip(shards.items(), metadata, strict=True) if not is_own(uri, one)
    }
    for shard_id, one in foreign.items():
        uri, maker = shards[shard_id], one.get("fingerprint", "unknown")[:8]
        aside = run.path("superseded", f"labels-foreign-{maker}", posixpath.basename(uri))
        commit_bytes(aside, read_bytes(uri))
        remove(uri)
        print(
            f"{run.title('label')}: {redacted(uri)} was made with other settings or data; moved to {redacted(aside)}",
            flush=True,
        )
    return list(foreign)
