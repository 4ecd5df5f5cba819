"""Pseudo-labelled images with their masks, as small JPEGs inside the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raylabel.config import SelectionConfig
from raylabel.dataset.image_source import read_source
from raylabel.dataset.images import ImageError
from raylabel.masks.rle import Rle, decode_masks
from raylabel.predictions.drawing import COLOURS, draw_masks, encode_picture
from raylabel.run.folder import RunFolder
from raylabel.run.labels.kept import KeptImage, kept_images
from raylabel.run.labels.shards import committed_shards

_MAX_SHARDS = 16
_SIDE, _FONT_PIXELS = 420, 19
_DRAWN = 12


@dataclass(frozen=True, kw_only=True)
class GalleryImage:
    """One picture of the gallery.

    Attributes:
        image_id: id in the pool.
        jpeg: the picture with its 12 best masks and their numbers; empty if the image can't be read.
        problem: why the image can't be read, or "".
        labels: one row per drawn mask: number, colour, name, group, raw_score, calibrated_score.
        num_more: number of pseudo-labels that are neither drawn nor listed.
        num_dropped: number of predictions that selection dropped.
    """

    image_id: str
    jpeg: bytes
    problem: str
    labels: list[dict[str, Any]]
    num_more: int
    num_dropped: int


def choose_images(
    run: RunFolder, selection: SelectionConfig, categories: Sequence[dict[str, Any]], size: int, *, seed: int
) -> tuple[list[KeptImage], str]:
    """Choose images for the gallery, and describe the choice in words.

    Half of the images have a pseudo-label of the rarest classes. The other half is drawn at random, with the run's
    seed, from all other images with a pseudo-label. At most 16 evenly spaced shards of the pool are read.
    """
    shards = list(committed_shards(run).values())
    looked_at = [
        shards[index] for index in np.unique(np.linspace(0, len(shards) - 1, min(len(shards), _MAX_SHARDS)).astype(int))
    ]
    groups = np.array([one["frequency_group"] for one in categories])
    num_train = np.array([one["num_train_images"] for one in categories])
    labelled = [image for uri in looked_at for image in kept_images(uri, selection, groups) if len(image.structs) > 0]
    order = np.random.default_rng(seed).permutation(len(labelled))
    rarest = [min(int(num_train[one["class_index"]]) for one in image.structs) for image in labelled]
    of_rare_classes = sorted(order, key=lambda index: rarest[index])[: size // 2]
    others = [index for index in order if index not in set(of_rare_classes)][: size - len(of_rare_classes)]
    rule = (
        f"First {len(of_rare_classes)} images with pseudo-labels of the rarest classes, then {len(others)} at random "
        f"(seed {seed}). They come from the {len(labelled):,} images with a pseudo-label in {len(looked_at)} of "
        f"{len(shards)} shards. None was chosen by its looks."
    )
    return [labelled[index] for index in [*of_rare_classes, *others]], rule


def draw(image: KeptImage, categories: Sequence[dict[str, Any]], *, max_pixels: int) -> GalleryImage:
    """Read one image and draw its pseudo-labels."""
    structs = sorted(image.structs, key=lambda one: -one["calibrated_score"])
    drawn = structs[:_DRAWN]
    labels = [
        {
            "number": number,
            "colour": COLOURS[(number - 1) % len(COLOURS)],
            "name": categories[one["class_index"]]["name"],
            "group": categories[one["class_index"]]["frequency_group"],
            "raw_score": one["raw_score"],
            "calibrated_score": one["calibrated_score"],
        }
        for number, one in enumerate(drawn, start=1)
    ]
    jpeg, problem = b"", ""
    try:
        pixels = read_source(image.source, max_pixels=max_pixels)
        rles = [Rle(size=list(image.image_size_hw), counts=one["mask_counts"]) for one in drawn]
        numbers = [str(number) for number in range(1, len(drawn) + 1)]
        masks_NHW = decode_masks(rles, image.image_size_hw)
        jpeg = encode_picture(draw_masks(pixels, masks_NHW, numbers, long_side=_SIDE, font_pixels=_FONT_PIXELS))
    except ImageError as error:
        problem = str(error)
    return GalleryImage(
        image_id=image.image_id,
        jpeg=jpeg,
        problem=problem,
        labels=labels,
        num_more=max(0, len(structs) - len(drawn)),
        num_dropped=sum(image.dropped.values()),
    )
