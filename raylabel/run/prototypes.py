"""Class similarity from a run's stored prototypes."""

import numpy as np
from numpy.typing import NDArray

from raylabel.files.storage import read_table
from raylabel.run.folder import RunFolder
from raylabel.smoothing import class_similarity


def load_similarity(run: RunFolder) -> NDArray[np.float64]:
    """(num_classes, num_classes) similarity; see smoothing.class_similarity."""
    table = read_table(run.path("prototypes", "prototypes.parquet"))
    embeddings = np.stack([np.asarray(row, np.float64) for row in table["embedding"].to_pylist()])
    return class_similarity(embeddings, table["num_instances"].to_numpy())
