"""The data of a run: its splits and its pool, as the config names them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raylabel.config import Config, SplitFraction
from raylabel.dataset.annotations import AnnotatedSet, read_annotations, validate_same_categories
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.splits import split_by_hash
from raylabel.errors import InputError
from raylabel.files.storage import digest, file_digest


@dataclass(frozen=True)
class RunData:
    """The data of one run; parts are read when they are first asked for.

    Attributes:
        config: the run's config.
    """

    config: Config

    @cached_property
    def _parts(self) -> dict[str, AnnotatedSet]:
        data = self.config.data
        annotated = read_annotations(data.labelled, images_root=data.images)
        fractions = {
            name: part.fraction
            for name in ("calibration", "validation", "pool")
            if isinstance(part := getattr(data, name), SplitFraction)
        }
        if not fractions:
            return {"labelled": annotated}
        parts = split_by_hash(annotated, fractions, self.config.seed, unused=self._unused)
        for name, part in parts.items():
            if not part.images:
                raise InputError(f"data.{name}: no image of {data.labelled} fell into it; give a larger fraction")
        return parts

    @property
    def _unused(self) -> tuple[str, ...]:
        """Folds calibrate on images that are learnt from, so none is kept aside for it."""
        return ("calibration",) if self.config.calibration.folds else ()

    def _part(self, name: str) -> AnnotatedSet:
        source = getattr(self.config.data, name)
        if isinstance(source, SplitFraction):
            return self._parts[name]
        annotated = read_annotations(source, images_root=self.config.data.images)
        validate_same_categories(self.labelled, annotated)
        return annotated

    @property
    def labelled(self) -> AnnotatedSet:
        """The training split."""
        return self._parts["labelled"]

    @cached_property
    def calibration(self) -> AnnotatedSet:
        """The held-out split on which correctness is measured."""
        return self._part("calibration")

    @cached_property
    def validation(self) -> AnnotatedSet:
        """The split that is evaluated at the end."""
        return self._part("validation")

    def list_pool(self) -> Iterator[PoolImage]:
        """The unlabelled images as they are now, in any order."""
        source = self.config.data.pool
        if isinstance(source, SplitFraction):
            return (PoolImage(image_id=image.file_name, uri=image.uri) for image in self._parts["pool"].images)
        return iter_pool(source)

    @property
    def pool_source(self) -> str:
        """Where the pool is; what is in it may grow."""
        source = self.config.data.pool
        return source.rstrip("/") if isinstance(source, str) else f"{self.labelled_digest}, {source.fraction:g} of it"

    @cached_property
    def pool_truth(self) -> AnnotatedSet | None:
        """The pool's true annotations, where they are at hand for measuring; images match by file name."""
        if isinstance(self.config.data.pool, SplitFraction):
            return self._parts["pool"]
        if self.config.data.pool_truth is None:
            return None
        truth = read_annotations(self.config.data.pool_truth)
        validate_same_categories(self.labelled, truth)
        return truth

    @cached_property
    def frequency_groups(self) -> NDArray[np.str_]:
        """(num_classes,) "r", "c" or "f", by training images."""
        return self.labelled.frequency_groups()

    @cached_property
    def labelled_digest(self) -> str:
        """Changes with the content of the labelled file and the way in which it is split."""
        data = self.config.data
        fractions = [
            getattr(data, name).fraction if isinstance(getattr(data, name), SplitFraction) else None
            for name in ("calibration", "validation", "pool")
        ]
        seed = self.config.seed if any(fractions) else None
        unused = [self._unused] if isinstance(data.calibration, SplitFraction) and self._unused else []
        return digest([file_digest(data.labelled), data.images, fractions, seed, *unused])

    def part_digest(self, name: str) -> str:
        """Changes with the content of `calibration`, `validation` or `pool_truth`."""
        source = getattr(self.config.data, name)
        if isinstance(source, SplitFraction):
            return digest([self.labelled_digest, name])
        return file_digest(source) if source else ""
