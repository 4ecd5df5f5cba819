"""Build the `instances` column of a table from the instances of many images.

Images are gathered one by one. The column is built once, field by field.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.predictions.instances import Instances, instances_context
from raylabel.schema import INSTANCE, context_to_arrow


@dataclass(frozen=True, kw_only=True)
class _ImageColumns:
    """The stored fields of one image's N instances. Only the K largest entries of each soft vector are stored."""

    class_index: NDArray[np.int32]
    raw_score: NDArray[np.float32]
    box_xyxy: NDArray[np.float32]
    mask_counts: list[bytes]
    mask_area: NDArray[np.int32]
    mask_quality: NDArray[np.float32]
    soft_classes: NDArray[np.int32]
    soft_probs: NDArray[np.float32]
    context: NDArray[np.float32]


class InstanceRows:
    """The stored fields of many images, gathered one by one.

    Args:
        top_k: number of entries kept of each soft vector, largest first.
        min_context_score: see `min_score` of `image_context`.
    """

    def __init__(self, *, top_k: int, min_context_score: float = 0.0) -> None:
        self._top_k, self._min_context_score = top_k, min_context_score
        self._images: list[_ImageColumns | None] = []

    def append(self, found: Instances | None) -> None:
        """Add the next image's instances. None stands for an unreadable image without instances."""
        self._images.append(None if found is None else self._columns(found))

    def take(self, places: Iterable[int]) -> "InstanceRows":
        """Return the images at these places, in this order."""
        taken = InstanceRows(top_k=self._top_k, min_context_score=self._min_context_score)
        taken._images = [self._images[place] for place in places]
        return taken

    def _columns(self, found: Instances) -> _ImageColumns:
        soft_classes = top_entries(found.soft_vectors, self._top_k)
        return _ImageColumns(
            class_index=found.class_indices,
            raw_score=found.raw_scores,
            box_xyxy=found.boxes_xyxy,
            mask_counts=[mask["counts"] for mask in found.masks],
            mask_area=found.mask_areas,
            mask_quality=found.mask_quality,
            soft_classes=soft_classes.astype(np.int32),
            soft_probs=np.take_along_axis(found.soft_vectors, soft_classes, axis=1),
            context=instances_context(found, min_score=self._min_context_score),
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of instances of each image so far."""
        lengths = [0 if image is None else len(image.class_index) for image in self._images]
        return np.array(lengths, dtype=np.int64)

    def column(self, name: str) -> NDArray[Any]:
        """Return one field of all instances together: `class_index`, `raw_score` or `context`, (N, ...)."""
        parts = [getattr(image, name) for image in self._filled()]
        return np.concatenate(parts) if parts else _NOTHING[name]

    def to_arrow(self, calibrated_scores: NDArray[np.floating]) -> pa.ListArray:
        """Build lists of schema.INSTANCE, one per image.

        Args:
            calibrated_scores: (N,) scores of all instances together.
        """
        num = len(calibrated_scores)
        counts = [one for image in self._filled() for one in image.mask_counts]
        soft_classes, soft_probs = self.column("soft_classes"), self.column("soft_probs")
        bounds = pa.array(np.arange(num + 1, dtype=np.int32) * np.int32(soft_classes.shape[1]))
        values = {
            "class_index": pa.array(self.column("class_index"), pa.int32()),
            "raw_score": pa.array(self.column("raw_score"), pa.float32()),
            "calibrated_score": pa.array(np.asarray(calibrated_scores, dtype=np.float32)),
            "box_xyxy": pa.FixedSizeListArray.from_arrays(pa.array(self.column("box_xyxy").ravel(), pa.float32()), 4),
            "mask_counts": pa.array(counts, pa.binary()),
            "mask_area": pa.array(self.column("mask_area"), pa.int32()),
            "mask_quality": pa.array(self.column("mask_quality"), pa.float32()),
            "soft_classes": pa.ListArray.from_arrays(bounds, pa.array(soft_classes.ravel(), pa.int32())),
            "soft_probs": pa.ListArray.from_arrays(bounds, pa.array(soft_probs.ravel(), pa.float32())),
            "context": context_to_arrow(self.column("context"), num),
        }
        structs = pa.StructArray.from_arrays([values[field.name] for field in INSTANCE], fields=list(INSTANCE))
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), structs, type=pa.list_(INSTANCE))

    def _filled(self) -> list[_ImageColumns]:
        return [image for image in self._images if image is not None and len(image.class_index)]


_NOTHING: dict[str, NDArray[Any]] = {
    "class_index": np.zeros(0, np.int32),
    "raw_score": np.zeros(0, np.float32),
    "box_xyxy": np.zeros((0, 4), np.float32),
    "mask_area": np.zeros(0, np.int32),
    "mask_quality": np.zeros(0, np.float32),
    "soft_classes": np.zeros((0, 0), np.int32),
    "soft_probs": np.zeros((0, 0), np.float32),
    "context": np.zeros((0, len(INSTANCE.field("context").type)), np.float32),
}
"""Empty columns, for images without instances."""


def top_entries(vectors: NDArray[np.floating], top_k: int) -> NDArray[np.int64]:
    """Find the places of the `top_k` largest entries of each row, shape (N, min(top_k, C)).

    The largest entry comes first. Equal entries keep their order.
    """
    num_entries = vectors.shape[1]
    if top_k < num_entries:
        # Partition first, because sorting a thousand classes to keep twenty would take most of the time.
        chosen = np.sort(np.argpartition(-vectors, top_k - 1, axis=1)[:, :top_k], axis=1)
        lowest = np.take_along_axis(vectors, chosen, axis=1).min(axis=1, keepdims=True)
        is_tied = (vectors >= lowest).sum(axis=1) > top_k
        chosen[is_tied] = np.sort(np.argsort(-vectors[is_tied], axis=1, kind="stable")[:, :top_k], axis=1)
    else:
        chosen = np.broadcast_to(np.arange(num_entries), vectors.shape)
    order = np.argsort(-np.take_along_axis(vectors, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)
