"""The stored predictions of the pool that a student learns from, chosen shard by shard from a few columns."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylabel.config import SelectionConfig
from raylabel.predictions.instances import Instances
from raylabel.predictions.selection import select
from raylabel.run.labels.shards import STATUS_OK, flat_instances, foreground_probs, read_fields


@dataclass(frozen=True, kw_only=True)
class PoolChoice:
    """The rules by which predictions are chosen for training.

    Attributes:
        selection: the rules that also choose the pseudo-labels.
        frequency_groups: (num_classes,) "r", "c" or "f".
        min_foreground: smallest foreground probability, in place of the smallest scores of `selection`. None keeps the
            smallest scores.
    """

    selection: SelectionConfig
    frequency_groups: NDArray[np.str_]
    min_foreground: float | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes without background."""
        return len(self.frequency_groups)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of `schema.INSTANCE` that the choice reads."""
        scores = ("calibrated_score",) if self.min_foreground is None else ("soft_classes", "soft_probs")
        return ("class_index", "mask_quality", "mask_area", *scores)

    def keep(self, structs: pa.StructArray, image_lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Choose rows of `schema.INSTANCE`, as a mask (N,). `image_lengths` is the number of rows per image."""
        if self.min_foreground is None:
            scores = structs.field("calibrated_score").to_numpy()
        else:
            scores = foreground_probs(structs, self.num_classes)
        return self._keep(
            scores=scores,
            class_indices=structs.field("class_index").to_numpy(),
            mask_quality=structs.field("mask_quality").to_numpy(),
            mask_areas=structs.field("mask_area").to_numpy(),
            image_lengths=image_lengths,
        )

    def keep_instances(self, instances: Instances, calibrated_scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Choose from the instances of one image, as a mask of shape (N,). Same rules as `keep`."""
        return self._keep(
            scores=calibrated_scores if self.min_foreground is None else 1 - instances.soft_vectors[:, -1],
            class_indices=instances.class_indices,
            mask_quality=instances.mask_quality,
            mask_areas=instances.mask_areas,
            image_lengths=np.array([len(instances)]),
        )

    def _keep(
        self,
        *,
        scores: NDArray[np.float32],
        class_indices: NDArray[np.int32],
        mask_quality: NDArray[np.float32],
        mask_areas: NDArray[np.int32],
        image_lengths: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Choose from columns. `scores` are foreground probabilities if `min_foreground` is set."""
        config = self.selection
        if self.min_foreground is not None:
            config = replace(config, min_score=self.min_foreground, min_score_by_group={})
        return select(
            calibrated_scores=scores,
            class_indices=class_indices,
            mask_quality=mask_quality,
            mask_areas=mask_areas,
            config=config,
            frequency_groups=self.frequency_groups,
            image_lengths=image_lengths,
        ).keep


@dataclass(frozen=True, kw_only=True)
class ChosenShard:
    """The readable images of a shard and their chosen instances.

    Attributes:
        table: rows of `schema.LABELS` with the requested fields of the instances.
        offsets: (num_images + 1,), the first instance of each image among the N instances of the shard.
        keep: (N,) bool, whether an instance is chosen.
        image_of, class_of: image row and predicted class of each chosen instance.
    """

    table: pa.Table
    offsets: NDArray[np.int64]
    keep: NDArray[np.bool_]
    image_of: NDArray[np.int64]
    class_of: NDArray[np.int32]

    @property
    def num_images(self) -> int:
        """Number of readable images."""
        return len(self.offsets) - 1

    def image_factors(self, class_factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the repeat factor per image, (num_images,): the largest factor of its classes, 1 without objects."""
        factors = np.ones(self.num_images)
        np.maximum.at(factors, self.image_of, class_factors[self.class_of])
        return factors


def read_chosen(shard_uri: str, choice: PoolChoice, *, fields: tuple[str, ...] = ()) -> ChosenShard:
    """Read one committed shard: the fields that the choice needs, and the given further ones.

    Args:
        shard_uri: one of `shards.committed_shards`.
        choice: the rules of the choice.
        fields: further fields. See `shards.read_fields`.
    """
    table = read_fields(shard_uri, {"status", *choice.fields, *fields})
    table = table.filter(pc.equal(table["status"], STATUS_OK)).combine_chunks()
    structs, lengths = flat_instances(table["instances"])
    keep = choice.keep(structs, lengths)
    return ChosenShard(
        table=table,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        keep=keep,
        image_of=np.repeat(np.arange(len(lengths)), lengths)[keep],
        class_of=structs.field("class_index").to_numpy()[keep],
    )
