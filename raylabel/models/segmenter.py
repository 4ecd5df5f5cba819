"""What a model family implements: the Segmenter protocol, and the targets that it learns from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from raylabel.errors import InputError
from raylabel.predictions.instances import Instances

LossTerm = Literal["classes", "objectness", "boxes", "masks"]

LOSS_TERMS: frozenset[LossTerm] = frozenset({"classes", "objectness", "boxes", "masks"})
"""Every loss term: classes of instances, object or not, where the box is, which pixels."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """True or pseudo-labelled objects of one image, indexed together.

    Attributes:
        boxes_xyxy: (N, 4) float32, pixels; of positive width and height.
        masks_NHW: (N, H, W) bool or uint8, of the image's size.
        class_probs: (N, num_classes + 1) float32 soft class targets, rows sum to 1, background last.
        weights: (N,) float32 >= 0, weight of each object's class loss. An object of weight 0 is in doubt: the place
            where it is teaches neither the object nor background.
        location_weights: (N,) float32 >= 0, weight of each object's box and mask loss; 1 unless it is given.
        class_mask: (num_classes + 1,) bool, classes that take part in the class loss of this image, background too; all
            unless it is given. The others were not looked for: their logits get no gradient from it.
    """

    boxes_xyxy: Tensor
    masks_NHW: Tensor
    class_probs: Tensor
    weights: Tensor
    # None only until __post_init__, as these defaults follow from other fields.
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
        """The chosen objects, by (K,) int64 rows."""
        return Target(
            boxes_xyxy=self.boxes_xyxy[rows],
            masks_NHW=self.masks_NHW[rows],
            class_probs=self.class_probs[rows],
            weights=self.weights[rows],
            location_weights=self.location_weights[rows],
            class_mask=self.class_mask,
        )

    def to(self, device: torch.device | str) -> "Target":
        """The same on another device."""
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
        """No objects."""
        return Target(
            boxes_xyxy=torch.zeros(0, 4),
            masks_NHW=torch.zeros(0, *image_size_hw, dtype=torch.bool),
            class_probs=torch.zeros(0, num_classes + 1),
            weights=torch.zeros(0),
        )


def chosen_layer(embed_layers: tuple[str, ...], layer: str | None) -> str:
    """The layer that `embed` reads.

    Raises:
        InputError: the segmenter has no such layer.
    """
    if layer is None and embed_layers:
        return embed_layers[0]
    if layer not in embed_layers:
        raise InputError(f"smoothing.layer must be one of {', '.join(embed_layers) or 'none at all'}, got {layer}")
    return layer


def is_trainable(segmenter: "Segmenter") -> bool:
    """Whether a segmenter learns: it does, unless its attribute `is_trainable` says that it only predicts."""
    return bool(getattr(segmenter, "is_trainable", True))


class Segmenter(Protocol):
    """A `torch.nn.Module` for instance segmentation with soft class vectors.

    A user's own class (`module:Class` in the config) is built as `Class(num_classes=..., min_size=...)`;
    `raylabel.models.contract.check_segmenter` shows whether it fits.

    Images are a list of (3, H, W) float32 tensors in [0, 1], RGB, on the model's device, of any sizes.

    Attributes:
        num_classes: number of foreground classes.
        embed_layers: names that `embed` knows, the default first; empty where there are no embeddings.
        training: the mode of the nn.Module.
    """

    num_classes: int
    embed_layers: tuple[str, ...]
    training: bool

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        """Mean losses over a batch as scalars, one for each of `terms`.

        Heads that only other terms need are not run. Images without objects are allowed.
        """
        ...

    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        """Objects of each image in its original size, by falling raw score, at most `max_per_image`.

        One box and one mask an object: suppression of duplicates does not look at classes. Raw scores are at least
        `score_threshold`, masks are not empty. Works in either mode and leaves it as it was.
        """
        ...

    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> Tensor:
        """Unit-length embeddings (sum of N, D) float32 of the targets' objects, in their order, without gradient.

        Args:
            images, targets: as of `losses`.
            layer: where they are read, one of `embed_layers`; None is the first of them.

        Raises:
            InputError: no such layer.
        """
        ...

    def train(self, mode: bool = True) -> Self:
        """As of nn.Module."""
        ...

    def eval(self) -> Self:
        """As of nn.Module."""
        ...

    def to(self, device: Any) -> Self:
        """As of nn.Module."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """As of nn.Module."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As of nn.Module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """As of nn.Module."""
        ...
