"""The contract of a segmenter, as a check that users can run on their own class."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raylabel.errors import InputError
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Segmenter, Target, is_trainable
from raylabel.predictions.instances import Instances

MAX_PER_IMAGE = 3


def check_segmenter(segmenter: Segmenter, *, image_sizes_hw: Sequence[tuple[int, int]] = ((64, 64), (48, 80))) -> None:
    """Check every promise of a segmenter on two small images, one of them without objects.

    The check changes the model's gradients, but not its weights.

    Args:
        segmenter: model on the CPU.
        image_sizes_hw: sizes of the two images. Set them for a model that needs larger images.

    Raises:
        InputError: the segmenter breaks a promise of raylabel.models.segmenter.Segmenter; the message names it.

    Examples:
        >>> import raylabel as rl
        >>> from raylabel.models.build import build_segmenter
        >>> segmenter = build_segmenter("tiny_maskrcnn", num_classes=5)  # or "my_package.my_module:MySegmenter"
        >>> rl.check_segmenter(segmenter)
        >>> segmenter.embed_layers = ["box_head"]
        >>> rl.check_segmenter(segmenter)
        Traceback (most recent call last):
            ...
        raylabel.errors.InputError: segmenter: embed_layers must be a tuple of names, got ['box_head']
    """
    _require(isinstance(segmenter, nn.Module), "must be a torch.nn.Module")
    _require(isinstance(segmenter.num_classes, int) and segmenter.num_classes >= 1, "num_classes must be an int >= 1")
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in image_sizes_hw]
    targets = [
        _two_squares(image_sizes_hw[0], segmenter.num_classes),
        Target.empty(image_sizes_hw[1], segmenter.num_classes),
    ]
    if is_trainable(segmenter):
        _check_losses(segmenter, images, targets)
    for training in (True, False):
        segmenter.train(training)
        _check_predict(segmenter, images)
        _require(segmenter.training == training, "predict must keep the train or eval mode")
    _check_embed(segmenter, images, targets)


def _check_losses(segmenter: Segmenter, images: list[Tensor], targets: list[Target]) -> None:
    segmenter.train()
    empty = [targets[1], targets[1]]
    subsets: tuple[frozenset[LossTerm], ...] = (LOSS_TERMS, frozenset({"classes", "objectness"}))
    for terms in subsets:
        for batch, what in ((targets, "objects"), (empty, "no object")):
            sized = images if batch is targets else [images[1], images[1]]
            losses = segmenter.losses(sized, batch, terms=terms)
            _require(set(losses) == terms, f"losses must have the terms {sorted(terms)}, got {sorted(losses)}")
            for name, value in losses.items():
                _require(
                    value.ndim == 0 and bool(torch.isfinite(value)),
                    f"loss {name} of images with {what} must be a finite scalar, got {value}",
                )
    sum(segmenter.losses(images, targets).values(), torch.zeros(())).backward()
    gradients = [one.grad for _, one in segmenter.named_parameters() if one.grad is not None]
    _require(any(bool(one.any()) for one in gradients), "losses must give a gradient to at least one parameter")
    _require(all(bool(torch.isfinite(one).all()) for one in gradients), "gradients must be finite")


def _check_predict(segmenter: Segmenter, images: list[Tensor]) -> None:
    predictions = segmenter.predict(images, score_threshold=0.0, max_per_image=MAX_PER_IMAGE)
    _require(len(predictions) == len(images), "predict must return one Instances per image")
    for image, found in zip(images, predictions, strict=True):
        _check_instances(found, (image.shape[-2], image.shape[-1]), segmenter.num_classes)
    again = segmenter.predict(images, score_threshold=0.0, max_per_image=MAX_PER_IMAGE)
    for first, second in zip(predictions, again, strict=True):
        _require(
            first.masks == second.masks and np.array_equal(first.soft_vectors, second.soft_vectors),
            "predict must return the same for the same images",
        )
    none = segmenter.predict(images, score_threshold=1.1, max_per_image=MAX_PER_IMAGE)
    _require(all(len(found) == 0 for found in none), "predict must drop scores below score_threshold")


def _check_instances(found: Instances, image_size_hw: tuple[int, int], num_classes: int) -> None:
    num = len(found)
    _require(found.image_size_hw == image_size_hw, f"image_size_hw must be {image_size_hw}, got {found.image_size_hw}")
    _require(num <= MAX_PER_IMAGE, f"at most max_per_image = {MAX_PER_IMAGE} objects, got {num}")
    shapes = {
        "boxes_xyxy": (num, 4),
        "class_indices": (num,),
        "raw_scores": (num,),
        "soft_vectors": (num, num_classes + 1),
        "mask_quality": (num,),
    }
    for name, shape in shapes.items():
        got = getattr(found, name)
        _require(got.shape == shape, f"{name} must have the shape {shape}, got {got.shape}")
        _require(bool(np.isfinite(got).all()), f"{name} must be finite")
    vectors = found.soft_vectors
    _require(
        bool((vectors >= 0).all()) and np.allclose(vectors.sum(axis=1), 1, atol=1e-4), "soft_vectors must sum to 1"
    )
    if num:
        foreground = vectors[:, :-1]
        _require(
            np.array_equal(foreground.argmax(axis=1), found.class_indices),
            "class_indices must be the arg max of soft_vectors without background",
        )
        _require(
            np.allclose(foreground.max(axis=1), found.raw_scores),
            "raw_scores must be the probability of the predicted class",
        )
    _require(bool((np.diff(found.raw_scores) <= 0).all()), "objects must be sorted by falling raw score")
    _require(bool(((found.mask_quality >= 0) & (found.mask_quality <= 1)).all()), "mask_quality must be in [0, 1]")
    _require(all(tuple(mask["size"]) == image_size_hw for mask in found.masks), "masks must have the size of the image")
    _require(bool((found.mask_areas > 0).all()), "masks must not be empty")


def _check_embed(segmenter: Segmenter, images: list[Tensor], targets: list[Target]) -> None:
    layers = segmenter.embed_layers
    _require(isinstance(layers, tuple), f"embed_layers must be a tuple of names, got {layers!r}")
    if not layers:
        return
    num = sum(len(target) for target in targets)
    for layer in layers:
        embeddings = segmenter.embed(images, targets, layer=layer)
        _require(
            embeddings.ndim == 2 and len(embeddings) == num,
            f"embed must return {num} rows at layer {layer}, got {embeddings.shape}",
        )
        _require(not embeddings.requires_grad, "embed must return tensors without gradient")
        lengths = embeddings.norm(dim=1)
        _require(
            bool(torch.allclose(lengths, torch.ones(num), atol=1e-4)),
            f"embeddings must be unit-length at layer {layer}, got {lengths}",
        )
        none = segmenter.embed([images[1]], [targets[1]], layer=layer)
        _require(none.shape == (0, embeddings.shape[1]), f"embed of no object must return no row, got {none.shape}")
    first = segmenter.embed(images, targets, layer=layers[0])
    _require(
        torch.equal(segmenter.embed(images, targets), first), "embed must read the first of embed_layers by default"
    )


def _two_squares(image_size_hw: tuple[int, int], num_classes: int) -> Target:
    """Make two objects: one of the first class, one half of the first class and half of the last."""
    height, width = image_size_hw
    boxes = torch.tensor(
        [[0, 0, width // 2, height // 2], [width // 4, height // 4, width, height]], dtype=torch.float32
    )
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    probs = torch.zeros(2, num_classes + 1)
    probs[0, 0] = 1.0
    probs[1, 0] += 0.5
    probs[1, num_classes - 1] += 0.5
    return Target(boxes_xyxy=boxes, masks_NHW=masks, class_probs=probs, weights=torch.tensor([1.0, 0.5]))


def _require(is_kept: bool, promise: str) -> None:
    if not is_kept:
        raise InputError(f"segmenter: {promise}")
