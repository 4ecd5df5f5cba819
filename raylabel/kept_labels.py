"""Pseudo-labels proper: the stored predictions of a run that its selection keeps, for reports and export."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylabel.config import SelectionConfig
from raylabel.labels import STATUS_OK
from raylabel.selection import select
from raylabel.storage import open_uri

_ROWS_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class KeptImage:
    """A readable image of the pool and its pseudo-labels.

    Attributes:
        image_id: as in the pool.
        uri: where the image is.
        image_size_hw: height and width in pixels.
        structs: its pseudo-labels as rows of `schema.INSTANCE`, in the stored order.
        dropped: reason -> how many of its other predictions it dropped.
    """

    image_id: str
    uri: str
    image_size_hw: tuple[int, int]
    structs: list[dict[str, Any]]
    dropped: Counter[str]


def kept_images(shard_uri: str, selection: SelectionConfig, frequency_groups: NDArray[np.str_]) -> Iterator[KeptImage]:
    """Images of one committed shard after selection; quarantined ones are left out.

    Args:
        shard_uri: one of `labels.committed_shards`.
        selection: which predictions are kept.
        frequency_groups: (num_classes,) "r", "c" or "f".
    """
    file_system, path = open_uri(shard_uri)
    with file_system.open_input_file(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(_ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                if row["status"] == STATUS_OK:
                    yield _keep(row, selection, frequency_groups)


def _keep(row: dict[str, Any], selection: SelectionConfig, frequency_groups: NDArray[np.str_]) -> KeptImage:
    structs = row["instances"] or []
    chosen = select(
        calibrated_scores=np.array([one["calibrated_score"] for one in structs], np.float32),
        class_indices=np.array([one["class_index"] for one in structs], np.int32),
        mask_quality=np.array([one["mask_quality"] for one in structs], np.float32),
        mask_areas=np.array([one["mask_area"] for one in structs], np.int32),
        config=selection,
        frequency_groups=frequency_groups,
    )
    return KeptImage(
        image_id=row["image_id"],
        uri=row["uri"],
        image_size_hw=(row["height"], row["width"]),
        structs=[structs[index] for index in np.flatnonzero(chosen.keep)],
        dropped=Counter(chosen.dropped),
    )
