"""Calibrated scores of stored labels. Shards that another corrector made are rewritten."""

import numpy as np
import pyarrow as pa

from raylabel.calibration import Corrector, Detections
from raylabel.files.storage import commit_table, digest
from raylabel.progress import Progress
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards, flat_instances, read_shard, read_shard_metadata
from raylabel.schema import LABELS, context_from_arrow
from raylabel.threads import READING_THREADS, map_on_threads


def apply_corrector(run: RunFolder, corrector: Corrector, *, num_classes: int) -> int:
    """Rewrite the calibrated scores of every committed shard that another corrector made, on one thread per CPU.

    Each shard is replaced as a whole with its metadata. After an interruption, the next call rewrites the remaining
    shards.

    Returns:
        The number of rewritten shards.
    """
    corrector_digest = digest(corrector.to_json())

    def rewrite(uri: str) -> None:
        table = with_calibrated_scores(read_shard(uri), corrector, num_classes=num_classes)
        metadata = {**(table.schema.metadata or {}), b"corrector": corrector_digest.encode()}
        commit_table(uri, table.replace_schema_metadata(metadata))

    uris = list(committed_shards(run).values())
    metadata = map_on_threads(read_shard_metadata, uris, num_threads=READING_THREADS)
    stale = [uri for uri, one in zip(uris, metadata, strict=True) if one["corrector"] != corrector_digest]
    if stale:
        with Progress(run.title("recalibrate"), len(stale), unit="shards") as progress:
            for done, _ in enumerate(map_on_threads(rewrite, stale), start=1):
                progress.update(done)
    return len(stale)


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
