"""Calibrated scores of stored labels. Shards that another corrector made are rewritten."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import Corrector, Detections, corrector_from_json
from raylabel.files.digests import digest
from raylabel.files.tables import commit_table
from raylabel.progress import Progress
from raylabel.run.folder import RunFolder
from raylabel.run.labels.ledger import renew_sizes
from raylabel.run.labels.shards import committed_shards, flat_instances, read_shard, read_shard_metadata, shard_groups
from raylabel.schema import LABELS, context_from_arrow
from raylabel.threads import READING_THREADS, Map, map_on_threads


def apply_corrector(run: RunFolder, corrector: Corrector, *, num_classes: int, map_groups: Map = map_on_threads) -> int:
    """Rewrite the calibrated scores of every committed shard that another corrector made.

    Each shard is replaced as a whole with its metadata. After an interruption, the next call rewrites the remaining
    shards.

    Args:
        run: the run folder.
        corrector: gives the new scores.
        num_classes: classes without background.
        map_groups: does the work on groups of shards.

    Returns:
        The number of rewritten shards.
    """
    content = corrector.to_json()
    find = partial(_made_by_others, corrector_digest=digest(content))
    stale = list(chain.from_iterable(map_groups(find, shard_groups(list(committed_shards(run).values())))))
    if stale:
        rewrite = partial(_rewrite, corrector=content, num_classes=num_classes)
        with Progress(run.title("recalibrate"), len(stale), unit="shards") as progress:
            done = 0
            for num_shards in map_groups(rewrite, shard_groups(stale)):
                done += num_shards
                progress.update(done)
        renew_sizes(run)
    return len(stale)


def _made_by_others(uris: Sequence[str], *, corrector_digest: str) -> list[str]:
    metadata = map_on_threads(read_shard_metadata, uris, num_threads=READING_THREADS)
    return [uri for uri, one in zip(uris, metadata, strict=True) if one["corrector"] != corrector_digest]


def _rewrite(uris: Sequence[str], *, corrector: dict[str, Any], num_classes: int) -> int:
    fitted, corrector_digest = corrector_from_json(corrector), digest(corrector)
    for uri in uris:
        table = with_calibrated_scores(read_shard(uri), fitted, num_classes=num_classes)
        metadata = {**(table.schema.metadata or {}), b"corrector": corrector_digest.encode()}
        commit_table(uri, table.replace_schema_metadata(metadata))
    return len(uris)


def with_calibrated_scores(table: pa.Table, corrector: Corrector, *, num_classes: int) -> pa.Table:
    """Replace `calibrated_score` in rows of schema.LABELS by the corrector's score. Nothing else changes."""
    structs, lengths = flat_instances(table["instances"])
    columns = {field.name: structs.field(field.name) for field in structs.type}
    detections = Detections(
        num_classes=num_classes,
        class_indices=columns["class_index"].to_numpy(),
        raw_scores=columns["raw_score"].to_numpy().astype(np.float64),
        image_indices=np.repeat(np.arange(table.num_rows), lengths),
        outcomes=None,
        weights=np.ones(len(structs)),
        context=context_from_arrow(columns["context"]),
    )
    columns["calibrated_score"] = pa.array(corrector(detections).astype(np.float32))
    rebuilt = pa.StructArray.from_arrays(list(columns.values()), fields=list(structs.type))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    instances = pa.ListArray.from_arrays(pa.array(offsets), rebuilt).cast(LABELS.field("instances").type)
    return table.set_column(table.schema.get_field_index("instances"), LABELS.field("instances"), instances)
