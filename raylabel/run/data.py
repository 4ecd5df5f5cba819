"""The data of a run: the splits and the pool that the config names."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raylabel.config import Config, LabelledPortion, SplitFraction
from raylabel.dataset.annotations import AnnotatedSet, ImageRecord, read_annotations, validate_same_categories
from raylabel.dataset.pool.access import Access
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.left_out import LeftOut
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.pool.truth import TruthMatch, with_annotated_sizes
from raylabel.dataset.portions import portion_rows
from raylabel.dataset.splits import split_by_hash
from raylabel.errors import InputError
from raylabel.files.digests import digest
from raylabel.files.paths import join
from raylabel.run.annotation_copies import are_stored, content_digest, open_annotations, orientation_of
from raylabel.run.folder import RunFolder


class MeasuredGroups(NamedTuple):
    """Frequency groups by which AP is measured.

    Attributes:
        source: "declared" by the validation file, or "labelled": by the number of images that the student learns from.
        of_category: category id -> "r", "c" or "f".
    """

    source: Literal["declared", "labelled"]
    of_category: dict[int, str]


@dataclass(frozen=True)
class RunData:
    """The data of one run. Each part is opened at its first use.

    Attributes:
        config: the run's config.
        run: the run that keeps what was read of annotation files. None keeps nothing: every file is read.
    """

    config: Config
    run: RunFolder | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle no part that is open. The copy opens the parts that it needs."""
        return RunData, (self.config, self.run)

    @cached_property
    def _parts(self) -> dict[str, AnnotatedSet]:
        parts, labelled = self._split_by_fractions(), self.config.data.labelled
        if isinstance(labelled, str):
            return parts
        whole = parts["labelled"]
        rows = portion_rows(whole, labelled.fraction, labelled.seed)
        if not len(rows):
            raise InputError(
                f"data.labelled.fraction: {labelled.fraction:g} of {len(whole)} images of {labelled.file} are none. "
                "Give a larger fraction."
            )
        others = np.setdiff1d(np.arange(len(whole)), rows)
        return parts | {"labelled": whole.subset(rows), "pool": whole.subset(others)}

    def _split_by_fractions(self) -> dict[str, AnnotatedSet]:
        data = self.config.data
        annotated = self._read(data.labelled_file)
        fractions = {
            name: part.fraction
            for name in ("calibration", "validation", "pool")
            if isinstance(part := getattr(data, name), SplitFraction)
        }
        if not fractions:
            return {"labelled": annotated}
        parts = split_by_hash(annotated, fractions, self.config.seed, unused=self._unused)
        for name, part in parts.items():
            if not len(part):
                raise InputError(f"data.{name}: no image of {data.labelled_file} fell into it. Give a larger fraction.")
        return parts

    def _read(self, source: str) -> AnnotatedSet:
        """Read an annotation file, and find the orientation in which it annotates the images."""
        root, max_pixels = self.config.data.images, self.config.data.max_image_pixels
        if self.run is None:
            annotated = read_annotations(source, images_root=root)
            as_stored = orientation_of(annotated, max_pixels=max_pixels).as_stored
        else:
            annotated = open_annotations(self.run, source, root)
            as_stored = are_stored(self.run, source, root, annotated, max_pixels=max_pixels)
        return annotated if as_stored else annotated.with_displayed_images()

    @property
    def _unused(self) -> tuple[str, ...]:
        """Splits that get no images. Folds calibrate on training images and need no calibration split."""
        return ("calibration",) if self.config.calibration.folds else ()

    def _part(self, name: str) -> AnnotatedSet:
        source = getattr(self.config.data, name)
        if isinstance(source, SplitFraction):
            return self._parts[name]
        annotated = self._read(source)
        validate_same_categories(self.labelled, annotated, files=(self.config.data.labelled_file, source))
        return annotated

    @property
    def labelled(self) -> AnnotatedSet:
        """The training split."""
        return self._parts["labelled"]

    @cached_property
    def calibration(self) -> AnnotatedSet:
        """The held-out split. Correctness is measured on it."""
        return self._part("calibration")

    @cached_property
    def student_labelled(self) -> AnnotatedSet:
        """The annotated images that student and supervised baseline learn from."""
        return self.labelled + self.calibration if self.config.student_learns_calibration else self.labelled

    @cached_property
    def validation(self) -> AnnotatedSet:
        """The split on which the stage evaluate measures AP."""
        return self._part("validation")

    def open_splits(self) -> None:
        """Open every annotated split, so that the run has the copies that workers open."""
        for name in ("labelled", "validation") if self._unused else ("labelled", "calibration", "validation"):
            getattr(self, name)

    def list_pool(self, left_out: LeftOut | None = None) -> Iterator[PoolImage]:
        """List the unlabelled images that the pool has now, in any order. `left_out` counts the other files."""
        data, aside = self.config.data, self._set_aside
        own = map(_pool_image, aside.images) if aside else iter(())
        if not isinstance(data.pool, str):
            return own
        access = Access(named=(data.images,), schemes=data.allowed_schemes, roots=data.allowed_roots)
        images = iter_pool(data.pool, access, tar_samples=data.tar_samples, left_out=left_out)
        if aside:
            images = self._beside(aside, images)
        if self._given_truth is not None:
            images = with_annotated_sizes(images, self._given_truth, max_pixels=data.max_image_pixels)
        return chain(own, images)

    def _beside(self, aside: AnnotatedSet, images: Iterator[PoolImage]) -> Iterator[PoolImage]:
        """Yield the listed images that the portion of the labelled file does not leave to the pool anyway.

        Raises:
            InputError: another image has the name of one that the portion leaves.
        """
        uri_of = dict(zip(aside.images.file_names(), aside.images.uris(), strict=True))
        known = set(uri_of.values())
        for image in images:
            if image.uri in known:
                continue
            if image.image_id in uri_of:
                raise InputError(
                    f"data.pool: {image.uri} and {uri_of[image.image_id]}, which data.labelled leaves to the pool, "
                    f"must have other names, got {image.image_id}. Give a folder above as data.pool."
                )
            yield image

    @property
    def pool_source(self) -> str:
        """The place of the pool. It stays the same when the pool grows."""
        source = self.config.data.pool
        if isinstance(source, SplitFraction):
            return f"{self.labelled_digest}, {source.fraction:g} of it"
        places = [source.rstrip("/")] if source else []
        if isinstance(self.config.data.labelled, LabelledPortion):
            places.append(f"{self.labelled_digest}, what is not its portion")
        return " and ".join(places)

    @property
    def listing_inputs(self) -> dict[str, Any]:
        """Everything but the pool's files that decides what `list_pool` lists."""
        data = self.config.data
        return {
            "pool": self.pool_source,
            "images": data.images,
            "allowed_schemes": data.allowed_schemes,
            "allowed_roots": data.allowed_roots,
            "tar_samples": data.tar_samples,
            "max_image_pixels": data.max_image_pixels,
            "pool_truth": self.part_digest("pool_truth"),
            **({"seed": self.config.seed, "unused": self._unused} if isinstance(data.pool, SplitFraction) else {}),
        }

    @cached_property
    def pool_truth(self) -> AnnotatedSet | None:
        """The pool's true annotations for measuring, None if they are unknown. Images match by file name."""
        aside, given = self._set_aside, self._given_truth
        return aside + given if aside and given else aside or given

    @property
    def num_set_aside(self) -> int:
        """Number of annotated images that are in the pool."""
        return len(self._set_aside or ())

    @property
    def truth_uris(self) -> list[str]:
        """The URIs of the images with a true annotation. A given truth's file names are relative to the pool."""
        aside, given, pool = self._set_aside, self._given_truth, self.config.data.pool
        of_given = given.images.file_names() if given else []
        return [*(aside.images.uris() if aside else []), *(join(str(pool), name) for name in of_given)]

    @property
    def _set_aside(self) -> AnnotatedSet | None:
        """The annotated images that are in the pool."""
        data = self.config.data
        is_there = isinstance(data.pool, SplitFraction) or isinstance(data.labelled, LabelledPortion)
        return self._parts["pool"] if is_there else None

    @cached_property
    def _given_truth(self) -> AnnotatedSet | None:
        """The annotations of `data.pool_truth`. They are of images at `data.pool`."""
        source = self.config.data.pool_truth
        if source is None or not isinstance(self.config.data.pool, str):
            return None
        truth = read_annotations(source) if self.run is None else open_annotations(self.run, source, None)
        validate_same_categories(self.labelled, truth, files=(self.config.data.labelled_file, source))
        return truth

    @cached_property
    def frequency_groups(self) -> NDArray[np.str_]:
        """(num_classes,) "r", "c" or "f", by the number of images that the student learns from."""
        return self.student_labelled.frequency_groups()

    @cached_property
    def measured_groups(self) -> MeasuredGroups:
        """The frequency groups of APr, APc and APf, as `evaluation.frequency` says."""
        declared = {one.category_id: one.frequency for one in self.validation.categories}
        if self.config.evaluation.frequency == "declared" and all(declared.values()):
            return MeasuredGroups("declared", {key: group.value for key, group in declared.items() if group})
        groups = zip(self.labelled.category_ids.tolist(), self.frequency_groups.tolist(), strict=True)
        return MeasuredGroups("labelled", dict(groups))

    @cached_property
    def labelled_digest(self) -> str:
        """Digest of the labelled file's content, of its split and of its portion."""
        data = self.config.data
        fractions = [
            getattr(data, name).fraction if isinstance(getattr(data, name), SplitFraction) else None
            for name in ("calibration", "validation", "pool")
        ]
        seed = self.config.seed if any(fractions) else None
        unused = [self._unused] if isinstance(data.calibration, SplitFraction) and self._unused else []
        portion = [] if isinstance(data.labelled, str) else [{"portion": [data.labelled.fraction, data.labelled.seed]}]
        content = content_digest(self.run, data.labelled_file)
        return digest([content, data.images, fractions, seed, *unused, *portion])

    def split_digest(self, name: str) -> str:
        """Return the digest of the content of `labelled`, `calibration` or `validation`."""
        return self.labelled_digest if name == "labelled" else self.part_digest(name)

    def part_digest(self, name: str) -> str:
        """Return the digest of the content of `calibration`, `validation` or `pool_truth`."""
        source = getattr(self.config.data, name)
        if isinstance(source, SplitFraction):
            return digest([self.labelled_digest, name])
        return content_digest(self.run, source) if source else ""


def _pool_image(image: ImageRecord) -> PoolImage:
    """Return an annotated image as an image of the pool."""
    return PoolImage(
        image_id=image.file_name,
        uri=image.uri,
        height=image.height,
        width=image.width,
        as_stored=image.source.as_stored,
    )


def open_pool_truth(data: RunData) -> AnnotatedSet:
    """Return the pool's truth, which must be known. Another process opens it from a copy of `data`."""
    truth = data.pool_truth
    assert truth is not None
    return truth


def truth_match(data: RunData) -> TruthMatch | None:
    """Return a counter of the pool's images with a truth. None if the truth is not known."""
    if data.pool_truth is None:
        return None
    given = data.config.data.pool_truth
    is_of_all = given is not None or not isinstance(data.config.data.pool, str)
    return TruthMatch(data.pool_truth, given or data.config.data.labelled_file, is_of_all=is_of_all)


def overlap(part: AnnotatedSet, other: AnnotatedSet) -> int:
    """Count the images of a part that another part has too, by their URIs."""
    return len(set(part.images.uris()) & set(other.images.uris()))
