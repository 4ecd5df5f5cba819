"""Pictures of predicted masks: each mask in a colour, with a text at its middle."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#E69F00", "#56B4E9", "#1FBF8F", "#F0E442", "#B79CFF", "#FF7F3F", "#E58FBF", "#FFFFFF")
"""Colours of instances, in turn.

This is Okabe and Ito's palette. Some colours are lighter, because numbers in them stand on black.
"""


def draw_masks(
    pixels_HW3: NDArray[np.uint8],
    masks_NHW: NDArray[np.bool_],
    texts: Sequence[str],
    *,
    long_side: int | None = None,
    font_pixels: int | None = None,
) -> Image.Image:
    """Draw masks over an image, later masks over earlier ones.

    Args:
        pixels_HW3: the image, uint8 RGB.
        masks_NHW: the masks, in the size of the image.
        texts: N texts. Each stands inside its mask, in the mask's colour. Empty masks get none.
        long_side: length of the picture's long side in pixels. None keeps the size of the image.
        font_pixels: size of the font. None takes a size that suits the picture.
    """
    height, width = pixels_HW3.shape[:2]
    scale = 1.0 if long_side is None else long_side / max(height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    canvas = np.asarray(Image.fromarray(pixels_HW3).resize(size_wh, resampling)).astype(np.float32)
    places = []
    for index, mask in enumerate(masks_NHW):
        scaled = np.asarray(Image.fromarray(mask).resize(size_wh, Image.Resampling.NEAREST))
        colour = np.array([int(COLOURS[index % len(COLOURS)][at : at + 2], 16) for at in (1, 3, 5)], np.float32)
        canvas[scaled] = 0.62 * canvas[scaled] + 0.38 * colour
        canvas[_edge(scaled)] = colour
        places.append(_inner_point(scaled))
    picture = Image.fromarray(canvas.astype(np.uint8))
    drawing = ImageDraw.Draw(picture)
    font = ImageFont.load_default(font_pixels or min(40, max(11, max(size_wh) // 30)))
    for index, (place, text) in enumerate(zip(places, texts, strict=True)):
        if place is None:
            continue
        left, top, right, bottom = drawing.textbbox(place, text, font=font, anchor="mm")
        drawing.rounded_rectangle((left - 5, top - 4, right + 5, bottom + 4), 5, fill="#111111")
        drawing.text(place, text, font=font, anchor="mm", fill=COLOURS[index % len(COLOURS)])
    return picture


def encode_picture(picture: Image.Image) -> bytes:
    """Return a picture as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=84)
    return buffer.getvalue()


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask's pixels that are at most 2 pixels from its border."""
    inner = mask
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _inner_point(mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return x, y of the mask's pixel that is nearest to the centroid."""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return None
    nearest = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
    return float(xs[nearest]), float(ys[nearest])
