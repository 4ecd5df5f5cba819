"""Shards in which the model fails at every image. They are held back until the model has predicted any image.

A broken model or device would otherwise put the whole pool into quarantine, where it stays when the model is repaired.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raylabel.dataset.image_errors import MODEL_FAILED, reason_kind
from raylabel.errors import ModelError
from raylabel.run.labels.shards import STATUS_OK

MOST_FAILING = 3
"""Number of shards in a row at which the stage stops if the model has not predicted any image."""


def fails_everywhere(statuses: Iterable[str]) -> bool:
    """Tell whether a model failed at every image of a shard that it was given, and was given any."""
    kinds = set(map(reason_kind, statuses))
    return MODEL_FAILED in kinds and STATUS_OK not in kinds


def held_back_row(shard_id: int, num_failed: int, place: str, traceback: str) -> pa.Table:
    """Return the row that a worker sends in place of a shard's counts.

    Args:
        shard_id: the shard, which is not committed.
        num_failed: images at which the model failed.
        place: one of the images, and how the model failed at it.
        traceback: of this failure.
    """
    row = {"held_back": shard_id, "num_failed": num_failed, "place": place, "traceback": traceback}
    return pa.Table.from_pylist([row])


class FailingShards:
    """The driver's list of the shards that workers have held back.

    Args:
        has_predicted: whether an earlier call has committed a shard with predictions of this model.
        most_images: number of failed images that ends the stage in any case.
    """

    def __init__(self, *, has_predicted: bool, most_images: float) -> None:
        self._has_predicted, self._most_images = has_predicted, most_images
        self._num_images = 0
        self.shard_ids: list[int] = []

    def hold_back(self, done: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the rows of committed shards, and keep the ids of the others.

        Raises:
            ModelError: the model fails at every image of `MOST_FAILING` shards, or of all shards, and has predicted no
                other image. Or it fails at more images than may be quarantined.
        """
        last: pa.Table | None = None
        for row in done:
            if "held_back" not in row.column_names:
                self._has_predicted |= _num_predicted(row) > 0
                yield row
                continue
            last = row
            self.shard_ids += row["held_back"].to_pylist()
            self._num_images += pc.sum(row["num_failed"]).as_py()
            is_enough = len(self.shard_ids) >= MOST_FAILING and not self._has_predicted
            if is_enough or self._num_images > self._most_images:
                raise self._error(row)
        if last is not None and not self._has_predicted:
            raise self._error(last)

    def _error(self, row: pa.Table) -> ModelError:
        return ModelError(
            f"the model fails at all {self._num_images} images of {len(self.shard_ids)} shards, such as "
            f"{row['place'][0].as_py()}. Repair the model or its device; these shards are not committed.",
            row["traceback"][0].as_py(),
        )


def _num_predicted(row: pa.Table) -> int:
    num, *others = (pc.sum(row[name]).as_py() for name in ("num_images", "num_quarantined", "num_in_validation"))
    return int(num) - sum(others)
