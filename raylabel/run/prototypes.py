"""RUN/prototypes/prototypes.parquet: the class prototypes of a run, and the class similarity computed from them."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.files.tables import commit_table, read_table
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.schema import PROTOTYPES
from raylabel.smoothing import PrototypeSums, class_similarity


def commit_prototypes(run: RunFolder, sums: PrototypeSums) -> None:
    """Write the prototype of every class, and the number of instances in its average."""
    table = pa.table(
        {
            "class_index": np.arange(len(sums.counts), dtype=np.int32),
            "num_instances": sums.counts.astype(np.int64),
            "embedding": sums.prototypes().astype(np.float32).tolist(),
        },
        schema=PROTOTYPES,
    )
    commit_table(prototypes_uri(run), table)


def load_similarity(run: RunFolder) -> NDArray[np.float64]:
    """Compute the (num_classes, num_classes) class similarity. See `smoothing.class_similarity`."""
    table = read_table(prototypes_uri(run))
    embeddings = np.stack([np.asarray(row, np.float64) for row in table["embedding"].to_pylist()])
    return class_similarity(embeddings, table["num_instances"].to_numpy())


def prototypes_uri(run: RunFolder) -> str:
    """Return the path or URI of the prototypes (schema.PROTOTYPES)."""
    return run.path(stage_folder("prototypes"), "prototypes.parquet")
