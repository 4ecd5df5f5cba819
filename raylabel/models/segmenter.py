"""The `Segmenter` protocol of all model families, and the targets that segmenters learn from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from raylabel.errors import InputError
from raylabel.predictions.instances import Instances

LossTerm = Literal["classes", "objectness", "boxes", "masks"]

LOSS_TERMS: frozenset[LossTerm] = frozenset({"classes", "objectness", "boxes", "masks"})
"""Every loss term: the class, object or not, the box, the pixels.

Examples:
    >>> import raylabel as rl
    >>> sorted(rl.LOSS_TERMS)
    ['boxes', 'classes', 'masks', 'objectness']
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """True or pseudo-labelled objects of one image, indexed together.

    Attributes:
        boxes_xyxy: (N, 4) float32 in pixels, with positive width and height.
        masks_NHW: (N, H, W) bool or uint8, in the size of the image.
        class_probs: (N, num_classes + 1) float32 soft class targets. Rows sum to 1; background is last.
        weights: (N,) float32 >= 0, the weight of each object's class loss. An object of weight 0 is doubtful: its
            place teaches neither the object nor background.
        location_weights: (N,) float32 >= 0, the weight of each object's box and mask loss. Default: 1.
        class_mask: (num_classes + 1,) bool, the classes in this image's class loss, background included. Default: all.
            Nobody searched the image for the other classes, so their logits get no gradient.

    Examples:
        >>> import torch
        >>> import raylabel as rl
        >>> masks = torch.zeros(1, 4, 6, dtype=torch.bool)
        >>> masks[0, 1:3, 2:5] = True
        >>> target = rl.Target(
        ...     boxes_xyxy=torch.tensor([[2.0, 1.0, 5.0, 3.0]]),
        ...     masks_NHW=masks,
        ...     class_probs=torch.tensor([[0.8, 0.0, 0.2]]),
        ...     weights=torch.ones(1),
        ... )
        >>> len(target), target.location_weights.tolist(), target.class_mask.tolist()
        (1, [1.0], [True, True, True])
        >>> len(rl.Target.empty((4, 6), num_classes=2))
        0
    """

    boxes_xyxy: Tensor
    masks_NHW: Tensor
    class_probs: Tensor
    weights: Tensor
    # None until __post_init__, because these defaults depend on other fields: mypy sees the type they have after it.
    location_weights: Tensor = None  # type: ignore[assignment]
    class_mask: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.location_weights is None:
            object.__setattr__(self, "location_weights", torch.ones_like(self.weights))
        if self.class_mask is None:
            everything = torch.ones(self.class_probs.shape[1], dtype=torch.bool, device=self.class_probs.device)
            object.__setattr__(self, "class_mask", everything)
        rows = (self.boxes_xyxy, self.masks_NHW, self.class_probs, self.weights, self.location_weights)
        assert len(set(map(len, rows))) == 1, f"fields must have equal length, got {list(map(len, rows))}"

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, rows: Tensor) -> "Target":
        """Choose objects by (K,) int64 rows."""
        return Target(
            boxes_xyxy=self.boxes_xyxy[rows],
            masks_NHW=self.masks_NHW[rows],
            class_probs=self.class_probs[rows],
            weights=self.weights[rows],
            location_weights=self.location_weights[rows],
            class_mask=self.class_mask,
        )

    def to(self, device: torch.device | str) -> "Target":
        """Copy to another device."""
        return Target(
            boxes_xyxy=self.boxes_xyxy.to(device),
            masks_NHW=self.masks_NHW.to(device),
            class_probs=self.class_probs.to(device),
            weights=self.weights.to(device),
            location_weights=self.location_weights.to(device),
            class_mask=self.class_mask.to(device),
        )

    @staticmethod
    def empty(image_size_hw: tuple[int, int], num_classes: int) -> "Target":
        """Make the target of an image without objects."""
        return Target(
            boxes_xyxy=torch.zeros(0, 4),
            masks_NHW=torch.zeros(0, *image_size_hw, dtype=torch.bool),
            class_probs=torch.zeros(0, num_classes + 1),
            weights=torch.zeros(0),
        )


def chosen_layer(embed_layers: tuple[str, ...], layer: str | None) -> str:
    """Choose the layer that `embed` reads: the given one, or the first.

    Raises:
        InputError: the segmenter has no such layer.
    """
    if layer is None and embed_layers:
        return embed_layers[0]
    if layer not in embed_layers:
        raise InputError(f"smoothing.layer must be one of {', '.join(embed_layers) or '(none)'}, got {layer}")
    return layer


def is_trainable(segmenter: "Segmenter") -> bool:
    """Tell whether a segmenter can be trained. It can unless its attribute `is_trainable` is false."""
    return bool(getattr(segmenter, "is_trainable", True))


class Segmenter(Protocol):
    """A `torch.nn.Module` for instance segmentation with soft class vectors.

    A user's class (`module:Class` in the config) is built as `Class(num_classes=..., min_size=...)`.
    `raylabel.models.contract.check_segmenter` checks whether it fits.

    Images are a list of (3, H, W) float32 tensors: RGB in [0, 1], of any sizes, on the model's device.

    Attributes:
        num_classes: number of foreground classes.
        embed_layers: layer names that `embed` accepts, the default first. Empty if the model has no embeddings.
        training: mode of the nn.Module.

    Examples:
        >>> import torch
        >>> import raylabel as rl
        >>> from raylabel.models.build import build_segmenter
        >>> segmenter = build_segmenter("tiny_maskrcnn", num_classes=3)
        >>> image = torch.rand(3, 64, 64)
        >>> sorted(segmenter.losses([image], [rl.Target.empty((64, 64), 3)]))
        ['boxes', 'classes', 'masks', 'objectness']
        >>> [found] = segmenter.predict([image], score_threshold=0.0, max_per_image=2)
        >>> found.image_size_hw, len(found) <= 2
        ((64, 64), True)
        >>> segmenter.embed_layers
        ('box_head', 'backbone')
    """

    num_classes: int
    embed_layers: tuple[str, ...]
    training: bool

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        """Compute the mean losses over a batch: one scalar per term of `terms`.

        Heads that serve only other terms are not run. Images without objects are allowed.
        """
        ...

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        """Predict at most `max_per_image` objects per image, by falling raw score, in the image's original size.

        Each object has one box and one mask: suppression of duplicates ignores classes. Raw scores are at least
        `score_threshold`. Masks are not empty. The method works in train and eval mode and keeps the mode.
        """
        ...

    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> Tensor:
        """Embed the targets' objects: (sum of N, D) float32 unit vectors in their order, without gradient.

        Args:
            images, targets: same as for `losses`.
            layer: one of `embed_layers`; None means the first.

        Raises:
            InputError: there is no such layer.
        """
        ...

    def train(self, mode: bool = True) -> Self:
        """See nn.Module."""
        ...

    def eval(self) -> Self:
        """See nn.Module."""
        ...

    def to(self, device: Any) -> Self:
        """See nn.Module."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """See nn.Module."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """See nn.Module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """See nn.Module."""
        ...
