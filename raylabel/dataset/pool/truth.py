"""The match of a pool's images with their true annotations, by name."""

from collections.abc import Iterable

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.errors import InputError


class TruthMatch:
    """Counter of the images of a pool that have a truth, and of those without a partner on either side.

    Args:
        truth: the pool's true annotations. An image's `file_name` is the pool's image id.
        source: file of the truth, for messages.
    """

    def __init__(self, truth: AnnotatedSet, source: str) -> None:
        self.truth, self._source = truth, source
        self.row_of = {image.file_name: row for row, image in enumerate(truth.images)}
        """Row of the truth by image id."""
        self.num_pool = self.num_matched = 0
        self._first_id: str | None = None

    def see(self, image_id: str) -> None:
        """Count an image of the pool. Ids are unique."""
        if self._first_id is None:
            self._first_id = image_id
        self.num_pool += 1
        self.num_matched += image_id in self.row_of

    def see_all(self, image_ids: Iterable[str]) -> None:
        """Count images of the pool."""
        for image_id in image_ids:
            self.see(image_id)

    @property
    def num_without_truth(self) -> int:
        """Number of images of the pool without a truth."""
        return self.num_pool - self.num_matched

    @property
    def num_not_in_pool(self) -> int:
        """Number of images of the truth that the pool does not have."""
        return len(self.truth) - self.num_matched

    def text(self) -> str:
        """Say how many images have no partner, "" if all have one."""
        if not self.num_not_in_pool and not self.num_without_truth:
            return ""
        return (
            f"{self.num_matched} of {len(self.truth)} images of {self._source} are in the pool, and "
            f"{self.num_without_truth} of {self.num_pool} images of the pool have no truth"
        )

    def refuse_none(self) -> None:
        """Refuse a truth of which no image is in the pool.

        Raises:
            InputError: nothing matches. The message shows a name of each side.
        """
        if not self.num_matched:
            raise InputError(
                f"data.pool_truth: {self.text()}. Every file_name must be the image id in the pool, such as "
                f"{self._first_id!r}, got {self.truth.images[0].file_name!r}."
            )
