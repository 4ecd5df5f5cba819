"""The match of a pool's images with their true annotations, by name."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.image_headers import NUM_TELLING, are_annotated_as_stored
from raylabel.dataset.pool.image import PoolImage
from raylabel.errors import InputError


class TruthMatch:
    """Counter of the images of a pool that have a truth, and of those without a partner on either side.

    Args:
        truth: the pool's true annotations. An image's `file_name` is the pool's image id.
        source: file of the truth, for messages.
        is_of_all: whether every image of the pool should have a truth. If not, `text` does not count those without.
    """

    def __init__(self, truth: AnnotatedSet, source: str, *, is_of_all: bool = True) -> None:
        self.truth, self._source, self._is_of_all = truth, source, is_of_all
        self.row_of = {name: row for row, name in enumerate(truth.images.file_names())}
        """Row of the truth by image id."""
        self.num_pool = self.num_matched = self.num_labelled = self.num_other_size = 0
        self.as_stored: bool | None = None
        """Orientation of the pool's images whose size in the truth does not decide. None if it is not known."""
        self._first_id: str | None = None
        self._first_other_size = ""
        self._turned = set[str]()

    def see(self, image_id: str) -> None:
        """Count an image of the pool. Ids are unique."""
        if self._first_id is None:
            self._first_id = image_id
        self.num_pool += 1
        self.num_matched += image_id in self.row_of

    def see_image(self, image: PoolImage) -> None:
        """Count a listed image of the pool."""
        self.see(image.image_id)
        if image.height is not None:
            self.as_stored = image.as_stored

    def see_labels(self, image_id: str, labelled_hw: tuple[int, int]) -> int:
        """Compare the size of an image's labels with the size of its truth.

        Returns:
            The truth's row, -1 if the image has no truth of this size.
        """
        row = self.row_of.get(image_id, -1)
        if row < 0:
            return row
        self.num_labelled += 1
        if self.size_of(image_id) == labelled_hw:
            return row
        self.num_other_size += 1
        height, width = self.size_of(image_id)
        self._first_other_size = self._first_other_size or (
            f"{image_id}, labelled as {labelled_hw[1]} x {labelled_hw[0]} pixels (width x height), "
            f"annotated as {width} x {height}"
        )
        return -1

    def see_turned(self, image_id: str) -> None:
        """Count a labelled image whose labels have another orientation than its truth, in the same size."""
        self._turned.add(image_id)

    def size_of(self, image_id: str) -> tuple[int, int]:
        """Return height and width of an image in its truth."""
        return self.truth.images[self.row_of[image_id]].image_size_hw

    @property
    def turned_rows(self) -> list[int]:
        """The truth's rows of the images that `see_turned` counted."""
        return [self.row_of[image_id] for image_id in self._turned]

    @property
    def num_other_orientation(self) -> int:
        """Number of labelled images with another orientation than their truth, in the same size."""
        return len(self._turned)

    @property
    def num_without_truth(self) -> int:
        """Number of images of the pool without a truth."""
        return self.num_pool - self.num_matched

    @property
    def num_not_in_pool(self) -> int:
        """Number of images of the truth that the pool does not have."""
        return len(self.truth) - self.num_matched

    def text(self) -> str:
        """Say how many images have no partner, or labels of another size or orientation. "" if there is none."""
        texts = list[str]()
        if self.num_not_in_pool or (self.num_without_truth and self._is_of_all):
            texts.append(
                f"{self.num_matched} of {len(self.truth)} images of {self._source} are in the pool, and "
                f"{self.num_without_truth} of {self.num_pool} images of the pool have no truth"
            )
        if self.num_other_size:
            texts.append(
                f"{self.num_other_size} of {self.num_labelled} labelled images are left out, because their labels "
                f"and their truth in {self._source} differ in size; the first is {self._first_other_size}"
            )
        if self._turned:
            texts.append(
                f"{self.num_other_orientation} of {self.num_labelled} labelled images are left out, because they were "
                f"labelled as displayed, and {self._source} annotates stored pixels; the first is {min(self._turned)}"
            )
        return "; ".join(texts)

    def refuse_none(self) -> None:
        """Refuse a truth of which no image is in the pool, or none with labels of the truth's size.

        Raises:
            InputError: nothing matches. The message shows a name or a size of each side.
        """
        if self.num_other_size and self.num_other_size == self.num_labelled:
            raise InputError(
                f"data.pool_truth: {self.text()}. The truth must be of these images. If the pool was labelled before "
                "its truth was given, move the run's labels away and label again."
            )
        if not self.num_matched:
            raise InputError(
                f"data.pool_truth: {self.text()}. Every file_name must be the image id in the pool, such as "
                f"{self._first_id!r}, got {self.truth.images[0].file_name!r}."
            )


def with_annotated_sizes(images: Iterable[PoolImage], truth: AnnotatedSet, *, max_pixels: int) -> Iterator[PoolImage]:
    """Yield the images of a pool in any order, those with a truth in the orientation of the truth.

    The first `NUM_TELLING` images with a truth tell how the truth annotates images. Until then they wait in memory.
    """
    size_of = {image.file_name: image.image_size_hw for image in truth.images}
    said = {image.file_name: image.as_stored for image in truth.images if image.as_stored is not None}

    def sized(image: PoolImage) -> PoolImage:
        size_hw = size_of.get(image.image_id)
        return replace(image, height=size_hw[0], width=size_hw[1]) if size_hw else image

    remaining, telling = map(sized, images), list[PoolImage]()
    for image in remaining:
        if image.height is None:
            yield image
            continue
        telling.append(image)
        if len(telling) == NUM_TELLING:
            break
    sources = [image.source for image in telling if image.refusal is None and image.image_id not in said]
    as_stored = are_annotated_as_stored(sources, max_pixels=max_pixels)
    for image in chain(telling, remaining):
        yield image if image.height is None else replace(image, as_stored=said.get(image.image_id, as_stored))
