"""Images that two annotated splits share, by content."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from raylabel.dataset.content import Contents

_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The images that two sets share.

    Attributes:
        sets: names of the two sets.
        num_images: number of images of the second set whose content the first set has too.
        examples: names of a few of these images in the first and in the second set.
    """

    sets: tuple[str, str]
    num_images: int
    examples: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """Say how many images are shared, with examples. An image with two names has both."""
        shown = " and ".join(first if first == second else f"{first} = {second}" for first, second in self.examples)
        count = "1 image" if self.num_images == 1 else f"{self.num_images} images"
        return f"{self.sets[0]} and {self.sets[1]} share {count}, such as {shown}"


def overlaps(contents: Mapping[str, Contents]) -> list[Overlap]:
    """Return the overlap of each pair of splits that share an image.

    Args:
        contents: name of the split -> contents of its images.
    """
    found = []
    for first, second in combinations(contents, 2):
        shared = contents[second].places_in(contents[first])
        if len(shared):
            names = [(contents[second].digests[place], contents[second].names[place]) for place in shared[:_EXAMPLES]]
            examples = tuple((contents[first].name(int(digest)) or "", name) for digest, name in names)
            found.append(Overlap(sets=(first, second), num_images=len(shared), examples=examples))
    return found
