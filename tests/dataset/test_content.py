"""Equal files have equal digests, however they are read, and other files have others."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raylabel.dataset.content import HEAD_BYTES, TAIL_BYTES, Contents, content_digest, digest_of_ends
from raylabel.dataset.image_headers import examine_images
from raylabel.dataset.image_records import ImageRecord

SIZES = st.sampled_from([0, 1, TAIL_BYTES, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 3 * HEAD_BYTES])


@given(SIZES, st.integers(0, 2**32), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\x00", b"P6\n"]))
def test_the_ends_of_a_file_give_the_digest_of_its_content(num_bytes: int, seed: int, magic: bytes) -> None:
    content = (magic + np.random.default_rng(seed).bytes(num_bytes))[:num_bytes]
    digest = digest_of_ends(num_bytes, content[:HEAD_BYTES], content[max(0, num_bytes - TAIL_BYTES) :])
    needs_all = num_bytes > HEAD_BYTES and magic[:1] not in (b"\xff", b"\x89")
    assert digest == (None if needs_all else content_digest(content))


@given(SIZES.filter(bool), st.integers(0, 2**32))
def test_one_other_byte_at_either_end_gives_another_digest(num_bytes: int, seed: int) -> None:
    content = np.random.default_rng(seed).bytes(num_bytes)
    for place in (0, num_bytes - 1):
        other = bytearray(content)
        other[place] ^= 1
        assert content_digest(bytes(other)) != content_digest(content)
    assert content_digest(content + b"\x00") != content_digest(content)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM"])
def test_files_without_compression_differ_by_any_pixel(form: str) -> None:
    """A dark frame around the scene fills both ends of such files, and all have one size."""
    files = []
    for value in (1, 2):
        pixels = np.zeros((300, 300, 3), np.uint8)
        pixels[150, 150] = value
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        files.append(buffer.getvalue())
    assert len(files[0]) == len(files[1])
    assert content_digest(files[0]) != content_digest(files[1])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("thorough", [False, True])
def test_check_reads_the_digest_that_labelling_computes(form: str, thorough: bool, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (200, 150, 3), dtype=np.uint8)
    path = tmp_path / "image"
    Image.fromarray(pixels).save(path, form)
    image = ImageRecord(image_id=1, file_name="image", uri=str(path), height=200, width=150)
    found = examine_images([image], max_pixels=10**6, thorough=thorough, on_image=lambda done: None)
    assert found.unusable == []
    assert found.contents.digests.tolist() == [content_digest(path.read_bytes())]
    assert found.sizes.tolist() == [path.stat().st_size]


@given(st.lists(st.integers(0, 2**64 - 1), unique=True), st.integers(0, 2**64 - 1))
def test_images_are_found_by_content(digests: list[int], other: int) -> None:
    names = [f"{digest}.jpg" for digest in digests]
    contents = Contents.of(np.array(digests, np.uint64), names)
    assert [contents.name(digest) for digest in digests] == names
    assert (contents.name(other) is None) == (other not in digests)
