"""Headers tell what the stages' reader would tell, without its decoding."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from raylabel.dataset import image_headers
from raylabel.dataset.image_headers import are_annotated_as_stored, examine_images, reads_as_stored
from raylabel.dataset.image_records import ImageRecord
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.dataset.images import ImageError

LIMIT = 10_000


def encoded(form: str, *, orientation: int = 1, size_hw: tuple[int, int] = (30, 40)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, exif=exif)
    return buffer.getvalue()


def with_hole(content: bytes) -> bytes:
    """Damage the middle of a file. Its head and end stay."""
    half = len(content) // 2
    return content[:half] + b"\x00" * 200 + content[half + 200 :]


CASES = {
    "sound": (encoded("JPEG"), (30, 40)),
    "sound.png": (encoded("PNG"), (30, 40)),
    "sound.webp": (encoded("WEBP"), (30, 40)),
    "sound.tif": (encoded("TIFF", orientation=6), (30, 40)),
    "turned": (encoded("JPEG", orientation=6), (40, 30)),
    "turned, annotated as stored": (encoded("JPEG", orientation=6), (30, 40)),
    "not turned": (encoded("JPEG"), (40, 30)),
    "mirrored": (encoded("JPEG", orientation=2), (40, 30)),
    "another size": (encoded("JPEG"), (60, 80)),
    "truncated": (encoded("JPEG")[:-100], (30, 40)),
    "truncated.png": (encoded("PNG")[:-100], (30, 40)),
    "padded": (encoded("JPEG") + b"\x00" * 5000, (30, 40)),
    "empty": (b"", (30, 40)),
    "text": (b"not an image at all", (30, 40)),
    "large": (encoded("PNG", size_hw=(110, 100)), (110, 100)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_reason_as_the_stages_give(name: str, tmp_path: Path) -> None:
    content, (height, width) = CASES[name]
    uri = str(tmp_path / "image")
    Path(uri).write_bytes(content)
    image = ImageRecord(image_id=1, file_name="image", uri=uri, height=height, width=width)
    try:
        read_source(image.source, max_pixels=LIMIT)
        expected = []
    except ImageError as error:
        expected = [(image, str(error))]
    assert examine_images([image], max_pixels=LIMIT, on_image=lambda done: None).unusable == expected
    assert examine_images([image], max_pixels=LIMIT, thorough=True, on_image=lambda done: None).unusable == expected


def test_sound_images_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(image_headers, "decode_source", refuse)
    images = []
    for name in ("sound", "sound.png", "sound.webp", "turned", "turned, annotated as stored"):
        content, (height, width) = CASES[name]
        (tmp_path / name).write_bytes(content)
        uri = str(tmp_path / name)
        images.append(ImageRecord(image_id=name, file_name=name, uri=uri, height=height, width=width))
    seen: list[int] = []
    assert examine_images(images, max_pixels=LIMIT, on_image=seen.append).unusable == []
    assert seen == [1, 2, 3, 4, 5]


def test_damage_in_the_middle_shows_when_all_pixels_are_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "image.png")
    Path(uri).write_bytes(with_hole(encoded("PNG")))
    image = ImageRecord(image_id=1, file_name="image.png", uri=uri, height=30, width=40)
    assert examine_images([image], max_pixels=LIMIT, on_image=lambda done: None).unusable == []
    [(_, why)] = examine_images([image], max_pixels=LIMIT, thorough=True, on_image=lambda done: None).unusable
    assert why.startswith(("corrupt", "truncated"))


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    image = ImageRecord(image_id=1, file_name="gone.jpg", uri=str(tmp_path / "gone.jpg"), height=3, width=4)
    assert examine_images([image], max_pixels=LIMIT, on_image=lambda done: None).unusable == [(image, "missing")]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("packed", [False, True])
def test_the_headers_tell_how_a_file_annotates(form: str, packed: bool, tmp_path: Path) -> None:
    """An image of 30 x 40 stored pixels that is shown as 40 x 30. Square and missing images tell nothing."""
    content = encoded(form, orientation=6)
    uri = str(tmp_path / "image")
    Path(uri).write_bytes(content)
    if packed:
        uri = str(tmp_path / "images.tar") + "#image"
        with tarfile.open(tmp_path / "images.tar", "w") as tar:
            tar.add(tmp_path / "image", "image")
    square, missing = ImageSource(str(tmp_path / "square.png"), (30, 30)), ImageSource("missing", (40, 30))
    (tmp_path / "square.png").write_bytes(encoded("PNG", orientation=6, size_hw=(30, 30)))
    for size_hw, expected in (((30, 40), "stored"), ((40, 30), "displayed"), ((50, 30), None)):
        image = ImageRecord(image_id=1, file_name="image", uri=uri, height=size_hw[0], width=size_hw[1])
        found = examine_images([image], max_pixels=LIMIT, on_image=lambda done: None)
        assert found.turns == ({expected: 1} if expected else {})
        assert bool(found.unusable) == (expected is None)
        sources = [square, ImageSource(uri, size_hw), missing]
        assert are_annotated_as_stored(sources, max_pixels=LIMIT) == (expected != "displayed")
        if expected:
            for preferred in (False, True):
                source = ImageSource(uri, size_hw, as_stored=preferred)
                assert reads_as_stored(source, max_pixels=LIMIT) == (expected == "stored")
    both = [ImageSource(uri, (40, 30)), ImageSource(uri, (30, 40))]
    assert are_annotated_as_stored(both, max_pixels=LIMIT), "one image annotated as stored is enough"


def test_few_headers_of_a_large_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def glance(source: ImageSource, max_pixels: int, *, to_its_end: bool) -> image_headers._Glance:
        read.append(source.uri)
        return image_headers._Glance(is_read=True, turn="displayed")

    monkeypatch.setattr(image_headers, "_glance", glance)
    sources = [ImageSource(str(number), (3, 4)) for number in range(100_000)]
    assert not are_annotated_as_stored(sources, max_pixels=LIMIT)
    assert sorted(map(int, read)) == list(range(0, 100_000, 100))
