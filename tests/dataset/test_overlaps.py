"""Images that two splits share, counted by hand and against sets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylabel.dataset.content import Contents
from raylabel.dataset.overlaps import overlaps

DIGESTS = st.lists(st.integers(0, 9), max_size=8)


def contents_of(name: str, digests: list[int]) -> Contents:
    return Contents.of(np.array(digests, np.uint64), [f"{name}{place}.jpg" for place in range(len(digests))])


def test_one_image_with_two_names() -> None:
    [found] = overlaps({"labelled": contents_of("a", [5, 3]), "validation": contents_of("b", [7, 3])})
    assert found.text() == "labelled and validation share 1 image, such as a1.jpg = b1.jpg"
    [found] = overlaps({"labelled": contents_of("a", [3]), "validation": contents_of("a", [3, 3, 3])})
    assert found.text() == "labelled and validation share 3 images, such as a0.jpg and a0.jpg = a1.jpg"


@given(DIGESTS, DIGESTS, DIGESTS)
def test_every_pair_is_counted(first: list[int], second: list[int], third: list[int]) -> None:
    splits = {"a": first, "b": second, "c": third}
    found = {one.sets: one for one in overlaps({name: contents_of(name, of) for name, of in splits.items()})}
    for pair in (("a", "b"), ("a", "c"), ("b", "c")):
        shared = [digest for digest in splits[pair[1]] if digest in splits[pair[0]]]
        assert (found[pair].num_images if pair in found else 0) == len(shared)
        for names in found[pair].examples if pair in found else ():
            digests = [
                splits[one][int(name.removeprefix(one).removesuffix(".jpg"))]
                for one, name in zip(pair, names, strict=True)
            ]
            assert digests[0] == digests[1]
