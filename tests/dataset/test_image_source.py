"""The orientation in which an image is read."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from colours import Photograph, fits, write_set
from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.dataset.annotations import read_annotations
from raylabel.dataset.image_headers import are_annotated_as_stored, stored_orientation
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.dataset.images import ImageError
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.truth import with_annotated_sizes

PHOTOGRAPHS = st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6)
TELLING = (6, False)
"""Orientation of an image that is not square: its annotated size fits one orientation alone."""


@pytest.mark.parametrize("size_hw", [(16, 24), (24, 16)])
@pytest.mark.parametrize("as_stored", [False, True])
def test_the_size_decides(size_hw: tuple[int, int], as_stored: bool, tmp_path: Path) -> None:
    Photograph("a.png", 6, False, True).write(tmp_path)
    source = ImageSource(str(tmp_path / "a.png"), size_hw, as_stored)
    assert read_source(source, max_pixels=1000).shape[:2] == size_hw


def test_without_a_size_the_orientation_decides(tmp_path: Path) -> None:
    Photograph("a.png", 6, False, True).write(tmp_path)
    for as_stored, size_hw in ((True, (16, 24)), (False, (24, 16))):
        source = ImageSource(str(tmp_path / "a.png"), as_stored=as_stored)
        assert read_source(source, max_pixels=1000).shape[:2] == size_hw


def test_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    Photograph("a.png", 6, False, True).write(tmp_path)
    for size_hw in ((16, 16), (12, 16)):
        with pytest.raises(
            ImageError,
            match=rf"another size: 16 x 24 pixels \(width x height\), annotated as {size_hw[1]} x {size_hw[0]}",
        ):
            read_source(ImageSource(str(tmp_path / "a.png"), size_hw), max_pixels=1000)


@given(orientations=PHOTOGRAPHS, as_stored=st.booleans())
def test_every_image_of_a_file_is_read_as_the_file_annotates_it(
    orientations: list[tuple[int, bool]], as_stored: bool
) -> None:
    """Annotated sets and pools with a truth agree. At least one image tells, because its size decides."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = [
            Photograph(f"{number}.png", orientation, is_square, as_stored)
            for number, (orientation, is_square) in enumerate([*orientations, TELLING])
        ]
        write_set(folder, "annotations.json", photographs)
        annotated = read_annotations(folder / "annotations.json", images_root=folder / "images")
        sources = [image.source for image in annotated.images]
        assert are_annotated_as_stored(sources, max_pixels=1000) == as_stored
        oriented = annotated if as_stored else annotated.with_displayed_images()
        listing = [PoolImage(one.name, str(folder / "images" / one.name)) for one in photographs]
        unknown = PoolImage("unknown.png", "unknown.png")
        pool = list(with_annotated_sizes([unknown, *listing], annotated, max_pixels=1000))
        assert unknown in pool
        for row, image in enumerate(oriented.images):
            [of_pool] = [one for one in pool if one.image_id == image.file_name]
            assert of_pool.source == image.source
            assert_is_annotated(oriented, row)


def assert_is_annotated(annotated: AnnotatedSet, row: int) -> None:
    truth = annotated.ground_truth(row)
    pixels = read_source(annotated.images[row].source, max_pixels=1000)
    assert pixels.shape[:2] == truth.image_size_hw
    assert fits(pixels, zip(truth.class_indices.tolist(), truth.masks, strict=True))


@pytest.mark.parametrize("as_stored", [True, False])
def test_where_nothing_tells_the_stored_pixels_are_read(as_stored: bool, tmp_path: Path) -> None:
    """Square and mirrored images alone."""
    write_set(tmp_path, "a.json", [Photograph("0.png", 6, True, as_stored), Photograph("1.png", 3, False, as_stored)])
    annotated = read_annotations(tmp_path / "a.json", images_root=tmp_path / "images")
    assert are_annotated_as_stored([image.source for image in annotated.images], max_pixels=1000)


def test_header_and_decoder_agree_on_an_orientation_behind_the_pixels(tmp_path: Path) -> None:
    """Pillow finds an eXIf chunk behind a PNG's pixels only when it has decoded them."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(buffer, "PNG", exif=exif)
    content, chunks, place = buffer.getvalue(), list[bytes](), 8
    while place < len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4], "big")
        chunks.append(content[place:end])
        place = end
    last = [one for one in chunks if one[4:8] == b"eXIf"]
    assert last
    path = tmp_path / "a.png"
    path.write_bytes(content[:8] + b"".join([one for one in chunks[:-1] if one not in last] + last + chunks[-1:]))
    assert read_source(ImageSource(str(path)), max_pixels=99).shape == (3, 4, 3)
    assert stored_orientation(str(path), max_pixels=99) == 1
