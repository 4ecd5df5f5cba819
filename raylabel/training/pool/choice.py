"""Which stored predictions of the pool a student learns from, a shard at a time and by column."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylabel.config import SelectionConfig
from raylabel.files.stored_file import StoredFile
from raylabel.predictions.instances import Instances
from raylabel.predictions.selection import select
from raylabel.run.labels.shards import STATUS_OK, flat_instances, foreground_probs


@dataclass(frozen=True, kw_only=True)
class PoolChoice:
    """What of a prediction is asked before it is learnt from.

    Attributes:
        selection: as for the pseudo-labels.
        frequency_groups: (num_classes,) "r", "c" or "f".
        min_foreground: smallest foreground probability, in place of the selection's smallest scores; None leaves these.
    """

    selection: SelectionConfig
    frequency_groups: NDArray[np.str_]
    min_foreground: float | None = None

    @property
    def num_classes(self) -> int:
        """Classes without background."""
        return len(self.frequency_groups)

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of schema.INSTANCE that the choice looks at."""
        scores = ("calibrated_score",) if self.min_foreground is None else ("soft_classes", "soft_probs")
        return ("class_index", "mask_quality", "mask_area", *scores)

    def keep(self, structs: pa.StructArray, image_lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N,) which rows of schema.INSTANCE are learnt from; `image_lengths` says how many each image has."""
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
        """The same of one image's instances."""
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
        """The same by column; `scores` are foreground probabilities where these are what counts."""
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
    """The readable images of a shard with what is chosen of them.

    Attributes:
        table: rows of schema.LABELS, with the fields of instances that were asked for.
        offsets: (num_images + 1,) where each image's instances begin among all.
        keep: (N,) which instances are learnt from.
        image_of, class_of: image and predicted class of each that is.
    """

    table: pa.Table
    offsets: NDArray[np.int64]
    keep: NDArray[np.bool_]
    image_of: NDArray[np.int64]
    class_of: NDArray[np.int32]

    @property
    def num_images(self) -> int:
        """Readable images."""
        return len(self.offsets) - 1

    def image_factors(self, class_factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """(num_images,) how often each image is to be drawn: the largest factor of its classes, 1 without any."""
        factors = np.ones(self.num_images)
        np.maximum.at(factors, self.image_of, class_factors[self.class_of])
        return factors


def read_chosen(shard_uri: str, choice: PoolChoice, *, columns: tuple[str, ...] = ()) -> ChosenShard:
    """One committed shard; of the file only what the choice looks at is read, and the columns that are named.

    Args:
        shard_uri: one of `shards.committed_shards`.
        choice: what is learnt from.
        columns: further ones, by the names that Parquet has for them.
    """
    wanted = ["status", *(f"instances.list.element.{name}" for name in choice.fields), *columns]
    with StoredFile(shard_uri) as file:
        table = pq.ParquetFile(file).read(wanted)
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
