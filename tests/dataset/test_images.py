"""Every pixel mode is decoded, and damaged files give their reasons."""

import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from raylabel.dataset import images
from raylabel.dataset.image_errors import REASONS, reason_kind
from raylabel.dataset.images import ImageError, decode_image, read_image

MAX_PIXELS = 10_000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height=20, width=30):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def png_header(width, height):
    """A PNG that only claims a size. Decoding it would take width * height * 3 bytes."""

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
    # With a tolerance, because TIFF rounds YCbCr differently.
    np.testing.assert_allclose(found.astype(int), np.asarray(image.convert("RGB")).astype(int), atol=4)


def test_cmyk_jpeg():
    image = Image.new("CMYK", (30, 20), (0, 255, 255, 0))
    found = decode_image(encoded(image, "JPEG", quality=95), max_pixels=MAX_PIXELS)
    assert found.shape == (20, 30, 3)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), [255, 0, 0], atol=6)


def adobe_transform(content: bytes, value: int) -> bytes:
    """A CMYK JPEG whose Adobe marker gives the meaning of its four channels: 0 for CMYK, 2 for YCCK."""
    at = content.index(b"Adobe") + 11
    return content[:at] + bytes([value]) + content[at + 1 :]


def test_cmyk_jpeg_of_adobe_is_inverted_and_may_be_ycck():
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    content = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in content, "Pillow writes the marker as Adobe does"
    np.testing.assert_allclose(
        decode_image(adobe_transform(content, 0), max_pixels=MAX_PIXELS)[5, 5], [255, 0, 0], atol=3
    )
    # The stored, inverted channels (255, 0, 0) read as Y, Cb, Cr of R, G, B, which are C, M, Y inverted twice.
    y, cb, cr = 255, 0 - 128, 0 - 128
    rgb = np.clip([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], 0, 255)
    found = decode_image(adobe_transform(content, 2), max_pixels=MAX_PIXELS)[5, 5]
    np.testing.assert_allclose(found, 255 - rgb, atol=3)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_lies_on_white(kind):
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((255, 102, 0)):
        image.putpixel((x, 0), (50, 50, 50, alpha))
    options = {}
    if kind == "P":
        image = Image.new("P", (3, 1))
        image.putpalette([50, 50, 50] * 3)
        image.putdata([0, 1, 2])
        options = {"transparency": bytes([255, 102, 0])}
    elif kind == "RGB":
        image = Image.new("RGB", (3, 1), (50, 50, 50))
        image.putpixel((2, 0), (1, 2, 3))
        options = {"transparency": (1, 2, 3)}
    else:
        image = image.convert(kind)
    found = decode_image(encoded(image, **options), max_pixels=MAX_PIXELS)[0]
    # 102 / 255 of 50 and the rest of 255
    middle = 50 if kind == "RGB" else 173
    np.testing.assert_allclose(found, [[50] * 3, [middle] * 3, [255] * 3], atol=1)


def test_transparent_gif_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 0, 200, 0])
    image.putpixel((1, 0), 1)
    found = decode_image(encoded(image, "GIF", transparency=0), max_pixels=MAX_PIXELS)
    assert found[0].tolist() == [[255, 255, 255], [0, 200, 0]]


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 25700], [32896, 65278, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        found = decode_image(encoded(Image.fromarray(values), kind), max_pixels=MAX_PIXELS)
        assert found[:, :, 0].tolist() == [[0, 1, 100], [128, 254, 255]]
        assert (found == found[:, :, :1]).all()


# A 2 x 3 image of numbered pixels, and the displayed image for each EXIF orientation (TIFF 6.0, page 36).
NUMBERED = np.array([[0, 40, 80], [120, 160, 200]], np.uint8)
DISPLAYED = {
    1: [[0, 40, 80], [120, 160, 200]],
    2: [[80, 40, 0], [200, 160, 120]],
    3: [[200, 160, 120], [80, 40, 0]],
    4: [[120, 160, 200], [0, 40, 80]],
    5: [[0, 120], [40, 160], [80, 200]],
    6: [[120, 0], [160, 40], [200, 80]],
    7: [[200, 80], [160, 40], [120, 0]],
    8: [[80, 200], [40, 160], [0, 120]],
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", DISPLAYED)
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    # Blocks of 16 pixels, so that JPEG keeps the values.
    image = Image.fromarray(np.kron(NUMBERED, np.ones((16, 16), np.uint8))).convert("RGB")
    content = encoded(image, kind, exif=exif, **options)
    for as_displayed, expected in ((False, NUMBERED.tolist()), (True, DISPLAYED[orientation])):
        found = decode_image(content, max_pixels=MAX_PIXELS, as_displayed=as_displayed)
        np.testing.assert_allclose(found[8::16, 8::16, 0], expected, atol=2)
        assert found.flags.c_contiguous
        assert found.flags.writeable


def test_a_damaged_exif_block_does_not_matter():
    content = encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert decode_image(content, max_pixels=MAX_PIXELS, as_displayed=True).shape == (20, 30, 3)


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
        (png_header(101, 100), r"too large: 101 x 100 pixels \(width x height\), data.max_image_pixels is 10,000"),
        (png_header(60_000, 60_000), "too large"),
        (encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "unsupported: pixels of mode F"),
    ],
)
def test_reasons(content, reason):
    with pytest.raises(ImageError, match=f"^({reason})"):
        decode_image(content, max_pixels=MAX_PIXELS)


def progressive_bomb(num_scans):
    content = encoded(Image.new("L", (500, 500)), "JPEG", progressive=True)
    before, last = content[:-2].rsplit(b"\xff\xda", 1)
    return before + (b"\xff\xda" + last) * num_scans + b"\xff\xd9"


def webp_bomb():
    def chunk(name, body):
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    inner = encoded(Image.new("RGB", (16, 16)), "WEBP")[12:]
    canvas = chunk(b"VP8X", bytes([2, 0, 0, 0]) + struct.pack("<I", 16382)[:3] * 2)
    frame = chunk(b"ANMF", b"\0" * 6 + struct.pack("<I", 15)[:3] * 2 + b"\0" * 4 + inner)
    body = b"WEBP" + canvas + chunk(b"ANIM", b"\0" * 6) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_bomb():
    """A TIFF of 10 x 10 pixels in a tile of 60,000 x 60,000."""
    tags = {256: 10, 257: 10, 258: 8, 259: 5, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 8, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x10\0\0\0" + b"\0" * 8 + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def gif_bomb():
    """A GIF with a screen of 1 x 1 pixels whose first frame has 65,535 x 65,535."""
    content = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    at = content.index(b"\x2c", 13)
    content[at + 5 : at + 9] = b"\xff" * 4
    return bytes(content)


def text_bomb():
    info = PngInfo()
    info.add_text("comment", "x" * 100_000_000, zip=True)
    return encoded(picture(), pnginfo=info)


@pytest.mark.parametrize("make", [lambda: progressive_bomb(200), webp_bomb, tiff_bomb, gif_bomb, text_bomb,
                                  lambda: png_header(20_000, 20_000), lambda: png_header(10_000, 10_000)])  # fmt: skip
def test_bombs_are_refused_by_their_headers(make):
    content = make()
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(ImageError, match=r"^(too large: |corrupt: Decompressed data too large)"):
        decode_image(content, max_pixels=1_000_000)
    assert time.monotonic() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_an_ordinary_progressive_jpeg_is_no_bomb():
    assert decode_image(encoded(picture(), "JPEG", progressive=True), max_pixels=MAX_PIXELS).shape == (20, 30, 3)


def test_one_pixel_and_a_wrong_suffix(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (1, 1), (7, 8, 9))))
    assert read_image(str(tmp_path / "a.jpg"), max_pixels=MAX_PIXELS).tolist() == [[[7, 8, 9]]]


def test_nothing_is_written_to_the_log(tmp_path):
    """Decoding logs nothing. The test uses a separate process, because pytest sets its own filters of warnings.

    libtiff still writes a line to the worker's log per damaged compressed TIFF.
    """
    (tmp_path / "exif.jpg").write_bytes(encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\xff\xff"))
    (tmp_path / "cut.tif").write_bytes(encoded(picture(), "TIFF")[:300])
    (tmp_path / "large.png").write_bytes(png_header(10_000, 9_500))
    program = (
        "import pathlib, sys, contextlib; from raylabel.dataset.images import ImageError, read_image\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    with contextlib.suppress(ImageError):\n"
        "        read_image(str(path), max_pixels=100_000_000, as_displayed=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_size_at_the_limit_is_decoded():
    assert decode_image(encoded(picture(100, 100)), max_pixels=10_000).shape == (100, 100, 3)


SOUND = {kind: encoded(picture(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM")}


@given(st.sampled_from(sorted(SOUND)), st.data())
@settings(max_examples=400, deadline=None)
def test_damaged_files_give_an_image_or_a_reason(kind, data):
    content = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    found, reason = None, ""
    try:
        found = decode_image(bytes(content), max_pixels=MAX_PIXELS, as_displayed=True)
    except ImageError as error:
        reason = str(error)
    if found is None:
        assert reason_kind(reason) in REASONS
        assert "\n" not in reason
    else:
        assert found.dtype == np.uint8
        assert found.shape[2] == 3


def test_read_image(tmp_path):
    path = tmp_path / "a b#c.png"
    path.write_bytes(encoded(picture()))
    np.testing.assert_array_equal(read_image(str(path), max_pixels=MAX_PIXELS), np.asarray(picture()))


def test_what_is_no_image_file_has_its_reason_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**40)
    reasons = {
        "no.png": "missing",
        "file/x": "missing",
        "loop.png": "missing",
        "gone.png": "missing",
        "x" * 300: "missing",
        "pipe.jpg": "not a file",
        "device.jpg": "not a file",
        "sparse.jpg": "too large: 1099511627776 bytes",
        ".": "is a folder",
        "a\0b": "unreadable URI",
        "\udc80": "missing",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=f"^{reason}") as caught:
            read_image(f"{tmp_path}/{name}", max_pixels=MAX_PIXELS)
        assert reason_kind(str(caught.value)) in REASONS
    for uri in ("nowhere://x/y.png", "s3:///x", "s3://", "az://x/y.png"):
        with pytest.raises(ImageError, match=r"^unreadable URI: "):
            read_image(uri, max_pixels=MAX_PIXELS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(tmp_path):
    (tmp_path / "a.png").touch(mode=0)
    with pytest.raises(ImageError, match=r"^no permission"):
        read_image(str(tmp_path / "a.png"), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P"])
def test_decoding_takes_few_bytes_per_pixel(tmp_path, mode):
    """A picture of one colour has a small file. Its decoded forms must not be in memory at the same time."""
    side = 3000
    picture = Image.new(mode, (side, side))
    picture.save(tmp_path / "a.png", **({"transparency": 0} if mode == "P" else {}))
    code = """
import resource, sys
from raylabel.dataset.images import read_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
read_image(sys.argv[2], max_pixels=10**8)
before = peak()
pixels = read_image(sys.argv[1], max_pixels=10**8)
print((peak() - before) / (pixels.size / 3))
"""
    Image.new(mode, (30, 30)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "small.png")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(found.stdout) < 11  # 4 in Pillow, 3 in the array, and strips


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_strips_do_not_show(monkeypatch, mode):
    """An image decoded in strips has the pixels that it has in one piece."""
    rng = np.random.default_rng(0)
    shape = {"RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}.get(mode, ())
    pixels = rng.integers(0, 256, (37, 23, *shape)).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels * 201 if mode == "I;16" else pixels, None if mode == "I;16" else mode)
    if mode == "P":
        image.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
        content = encoded(image, "PNG", transparency=7)
    else:
        content = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    whole = decode_image(content, max_pixels=10**4)
    monkeypatch.setattr(images, "_STRIP_PIXELS", 50)
    assert np.array_equal(decode_image(content, max_pixels=10**4), whole)
