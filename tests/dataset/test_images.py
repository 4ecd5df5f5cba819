"""Decoding: every mode of pixel, and damaged files with their reasons."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylabel.dataset.images import ImageError, decode_image, read_image

MAX_PIXELS = 10_000


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height=20, width=30):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def png_header(width, height):
    """A PNG that only claims a size: to decode it would take width * height * 3 bytes."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats(kind):
    np.testing.assert_array_equal(decode_image(encoded(picture(), kind), max_pixels=600), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "YCbCr"])
def test_modes(mode):
    kind = "PNG" if mode in ("L", "1", "LA", "RGBA", "P") else "TIFF"
    image = picture().convert(mode)
    found = decode_image(encoded(image, kind), max_pixels=MAX_PIXELS)
    assert (found.shape, found.dtype) == ((20, 30, 3), np.uint8)
    # YCbCr is stored by TIFF in its own rounding.
    np.testing.assert_allclose(found.astype(int), np.asarray(image.convert("RGB")).astype(int), atol=4)


def test_cmyk_jpeg():
    image = Image.new("CMYK", (30, 20), (0, 255, 255, 0))
    found = decode_image(encoded(image, "JPEG", quality=95), max_pixels=MAX_PIXELS)
    assert found.shape == (20, 30, 3)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), [255, 0, 0], atol=6)


def test_palette_with_transparency():
    image = picture().convert("P")
    found = decode_image(encoded(image, transparency=bytes([0, 128, 255])), max_pixels=MAX_PIXELS)
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 25700], [32896, 65278, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode_image(encoded(Image.fromarray(values), kind), max_pixels=MAX_PIXELS)
        assert found[:, :, 0].tolist() == [[0, 1, 100], [128, 254, 255]]
        assert (found == found[:, :, :1]).all()


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode_image(encoded(picture(20, 30), "JPEG", exif=exif), max_pixels=MAX_PIXELS)
    assert found.shape == (20, 30, 3)


def test_multi_picture_jpeg_of_a_camera():
    content = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
    assert decode_image(content, max_pixels=MAX_PIXELS).shape == (20, 30, 3)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(content, max_pixels=MAX_PIXELS)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"hello, I am no picture", "not an image"),
        (encoded(picture(), "EPS"), "not an image"),
        (b"\x89PNG\r\n\x1a\n", "truncated|not an image|corrupt"),
        (encoded(picture())[:-200], "truncated"),
        (encoded(picture(), "JPEG")[:-200], "truncated"),
        (encoded(picture(), "BMP")[:-200], "truncated"),
        (png_header(101, 100), "too large: 101 x 100 pixels"),
        (png_header(60_000, 60_000), "too large"),
        (encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "corrupt: .*floating"),
    ],
)
def test_reasons(content, reason):
    with pytest.raises(ImageError, match=f"^({reason})"):
        decode_image(content, max_pixels=MAX_PIXELS)


def test_size_at_the_limit_is_decoded():
    assert decode_image(encoded(picture(100, 100)), max_pixels=10_000).shape == (100, 100, 3)


SOUND = {kind: encoded(picture(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@given(st.sampled_from(sorted(SOUND)), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_give_an_image_or_a_reason(kind, data):
    content = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    found, reason = None, ""
    try:
        found = decode_image(bytes(content), max_pixels=MAX_PIXELS)
    except ImageError as error:
        reason = str(error)
    if found is None:
        assert reason
        assert "\n" not in reason
    else:
        assert found.dtype == np.uint8
        assert found.shape[2] == 3


def test_read_image(tmp_path):
    path = tmp_path / "a b#c.png"
    path.write_bytes(encoded(picture()))
    np.testing.assert_array_equal(read_image(str(path), max_pixels=MAX_PIXELS), np.asarray(picture()))


def test_missing_image_and_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for path, reason in ((tmp_path / "no.png", "missing"), (tmp_path / "file/x", "missing"), (tmp_path, "is a folder")):
        with pytest.raises(ImageError, match=reason):
            read_image(str(path), max_pixels=MAX_PIXELS)
