"""Hand-written fake segmenters. With tests/support/ on the path a config can name them, as `fakes:FakeSegmenter`."""

import ctypes
import os
import signal
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import PpmImagePlugin
from torch import Tensor, nn

from raylabel.masks.rle import encode_masks, mask_boxes
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Target
from raylabel.predictions.instances import Instances

MAX_SHAPES = 4


def shapes_of(image: Tensor, num_classes: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Draw the rectangles that FakeSegmenter predicts for an image. The seed is computed from the image's pixels.

    Returns:
        Masks (N, H, W), none of them empty, and soft vectors (N, num_classes + 1) that sum to 1. N is 0 to 4; it is 0
        in images with a side below 10 pixels.
    """
    height, width = image.shape[-2:]
    rng = np.random.default_rng(round(float(image.double().sum()) * 255))
    num = rng.integers(0, MAX_SHAPES + 1) if min(height, width) >= 10 else 0
    masks = np.zeros((num, height, width), bool)
    for mask in masks:
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + rng.integers(4, height // 2), left : left + rng.integers(4, width // 2)] = True
    return masks, rng.dirichlet(np.full(num_classes + 1, 0.3), size=num).astype(np.float32)


class FakeSegmenter(nn.Module):
    """A segmenter that predicts known shapes. Its one layer learns nothing useful, but can be trained and saved."""

    embed_layers = ("classes",)

    def __init__(self, *, num_classes: int, min_size: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.layer = nn.Linear(3, num_classes + 1)

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        logits = self.layer(torch.stack([image.mean(dim=(1, 2)) for image in images]))
        background = F.one_hot(torch.tensor(self.num_classes), self.num_classes + 1).float().to(logits)
        wanted = torch.stack([target.class_probs.mean(dim=0) if len(target) else background for target in targets])
        loss = F.cross_entropy(logits, wanted.to(logits))
        return dict.fromkeys(sorted(terms), loss)

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        return [self._found(image.cpu(), score_threshold)[:max_per_image] for image in images]

    def _found(self, image: Tensor, score_threshold: float) -> Instances:
        masks, soft_vectors = shapes_of(image, self.num_classes)
        scores = soft_vectors[:, :-1].max(axis=1, initial=0)
        order = np.argsort(-scores, kind="stable")
        rows = order[scores[order] >= score_threshold]
        encoded = encode_masks(masks[rows])
        return Instances(
            image_size_hw=(image.shape[-2], image.shape[-1]),
            boxes_xyxy=mask_boxes(encoded),
            masks=tuple(encoded),
            class_indices=soft_vectors[rows, :-1].argmax(axis=1).astype(np.int32),
            raw_scores=scores[rows],
            soft_vectors=soft_vectors[rows],
            mask_quality=np.ones(len(rows), np.float32),
        )

    @torch.no_grad()
    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> Tensor:
        return F.normalize(torch.cat([target.class_probs for target in targets]), dim=1)


class WaitingSegmenter(FakeSegmenter):
    """A segmenter that finds nothing and sleeps without using CPU, like a worker that waits for its accelerator."""

    SECONDS = 0.015
    """Seconds per image."""

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        time.sleep(self.SECONDS * len(images))
        return [Instances.empty((image.shape[-2], image.shape[-1]), self.num_classes) for image in images]


class SlowSegmenter(FakeSegmenter):
    """A FakeSegmenter that is slow enough to be disturbed."""

    SECONDS = 0.04
    """Seconds per image."""

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        time.sleep(self.SECONDS * len(images))
        return super().predict(images, score_threshold=score_threshold, max_per_image=max_per_image)


class LethalSegmenter(FakeSegmenter):
    """A FakeSegmenter that kills its process at an all-white image, like a crash in a decoder or driver."""

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        if any(bool((image == 1).all()) for image in images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(images, score_threshold=score_threshold, max_per_image=max_per_image)


class CrashingDecoderSegmenter(FakeSegmenter):
    """A FakeSegmenter that makes Pillow's PPM decoder crash the process at a file that contains "crash"."""

    def __init__(self, *, num_classes: int, min_size: int | None = None) -> None:
        super().__init__(num_classes=num_classes, min_size=min_size)
        load = PpmImagePlugin.PpmImageFile.load

        def crashing(self: PpmImagePlugin.PpmImageFile) -> object:
            self.fp.seek(0)
            if b"crash" in self.fp.read():
                ctypes.string_at(0)
            return load(self)

        PpmImagePlugin.PpmImageFile.load = crashing
