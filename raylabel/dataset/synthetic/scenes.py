"""Drawing of one generated image: textured objects in front of clutter, hiding parts of each other."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raylabel.dataset.synthetic.classes import SHAPES, SyntheticClass

_MIN_RADIUS, _MAX_RADIUS = 0.08, 0.21  # of the image's side
_MIN_VISIBLE = 0.45
_NUM_TRIES = 12


def draw_scene(
    classes: Sequence[SyntheticClass], image_size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one object per given class. A class may be given several times.

    Args:
        classes: classes of the objects, from the back to the front.
        image_size: side of the square image in pixels.
        rng: source of every random choice.

    Returns:
        The image, (H, W, 3) uint8 RGB, and the objects' visible parts, (N, H, W) bool. The parts are disjoint, and each
        is at least 45% of its object and not empty.
    """
    canvas_HW3 = _background(image_size, rng)
    masks = _place([one.shape for one in classes], image_size, rng)
    for one, mask_HW in zip(classes, masks, strict=True):
        hue = (one.hue + rng.uniform(-one.half_range, one.half_range)) % 1
        _paint(canvas_HW3, mask_HW, hue, rng)
    canvas_HW3 *= rng.uniform(0.8, 1.1, size=3).astype(np.float32) * np.float32(0.5) + np.float32(0.5)
    canvas_HW3 += rng.standard_normal(canvas_HW3.shape, dtype=np.float32) * np.float32(rng.uniform(3, 14))
    return canvas_HW3.clip(0, 255).astype(np.uint8), masks


def _place(shapes: Sequence[str], image_size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Place the shapes at random, smaller with each dozen tries until enough of each is visible, and return their
    masks."""
    num_pixels = image_size * image_size
    visible_NP = np.zeros((len(shapes), num_pixels), dtype=bool)
    full_areas = np.zeros(len(shapes))
    for index, shape in enumerate(shapes):
        radius = image_size * np.exp(rng.uniform(np.log(_MIN_RADIUS), np.log(_MAX_RADIUS)))
        num_tries = 0
        while True:
            mask_P = _outline_mask(shape, radius, image_size, rng).ravel()
            remaining = visible_NP[:index, ~mask_P].sum(axis=1)
            if mask_P.any() and (remaining >= _MIN_VISIBLE * full_areas[:index]).all():
                break
            num_tries += 1
            if num_tries % _NUM_TRIES == 0:
                radius = max(0.8 * radius, 2.0)
        visible_NP[:index] &= ~mask_P
        visible_NP[index] = mask_P
        full_areas[index] = mask_P.sum()
    return visible_NP.reshape(-1, image_size, image_size)


def _outline_mask(shape: str, radius: float, image_size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    angle, aspect = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-0.15, 0.15))
    center = rng.uniform(0.7 * radius, image_size - 0.7 * radius, size=2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    image = Image.new("L", (image_size, image_size))
    pen = ImageDraw.Draw(image)
    for fill, outline in zip((1, 0), SHAPES[shape](), strict=False):
        points = (outline * [aspect, 1 / aspect]) @ rotation.T * radius + center
        pen.polygon([(x, y) for x, y in points.tolist()], fill=fill)
    return np.asarray(image).astype(bool)


def _paint(canvas_HW3: NDArray[np.float32], mask_HW: NDArray[np.bool_], hue: float, rng: np.random.Generator) -> None:
    """Fill the mask with the hue and a texture: stripes, blotches, grain or shading."""
    rows, columns = np.nonzero(mask_HW)
    color = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 0.95), rng.uniform(0.55, 1.0)), dtype=np.float32) * 255
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.45)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    texture = rng.integers(4)
    if texture == 0:
        light = np.sign(np.sin(along * (2 * np.pi / rng.uniform(4, 10))))
    elif texture == 1:
        across = rows * np.cos(angle) - columns * np.sin(angle)
        light = np.sin(along * rng.uniform(0.5, 1.0)) * np.sin(across * rng.uniform(0.5, 1.0)) * 1.5
    elif texture == 2:
        light = rng.standard_normal(len(rows)) * 0.7
    else:
        light = 2 * (along - along.min()) / max(float(np.ptp(along)), 1.0) - 1
    canvas_HW3[rows, columns] = color * (1 - strength / 2 + strength * light[:, None])


def _background(image_size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw smooth gradients, then faded blobs and lines that are no objects."""
    grid_side = int(rng.integers(2, 7))
    grid = rng.uniform(40, 200) + rng.normal(0, 30, (grid_side, grid_side, 3)) * [1.0, 0.7, 0.9]
    small = Image.fromarray(grid.clip(0, 255).astype(np.uint8))
    image = small.resize((image_size, image_size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 9)):
        x, y, width, height = rng.uniform(0, 1, 4) * [1, 1, 0.35, 0.35] * image_size
        pen.ellipse((x - width / 2, y - height / 2, x + width / 2, y + height / 2), fill=_faded_color(rng))
    for _ in range(rng.integers(0, 6)):
        ends = (rng.uniform(0, 1, 4) * image_size).tolist()
        pen.line(ends, fill=_faded_color(rng), width=int(rng.integers(1, 4)))
    return np.asarray(image).astype(np.float32)


def _faded_color(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.4), rng.uniform(0.2, 0.95))
    return int(red * 255), int(green * 255), int(blue * 255)
