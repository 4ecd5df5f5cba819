"""A segmenter whose queries each give a soft vector and a mask. Importing it needs transformers."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raylabel.models.parts.duplicates import distinct_masks
from raylabel.models.parts.map_masks import map_instances
from raylabel.models.parts.mask_embedding import average_over_masks
from raylabel.models.parts.preprocessing import ResizeAndNormalise, by_size, in_mode, target_dict
from raylabel.models.query.loss import QueryTargets, SoftQueryLoss
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Target, chosen_layer
from raylabel.predictions.instances import Instances


class QueryNetwork(Protocol):
    """The part in which query families differ.

    Attributes:
        embed_layers: names of the maps that instances can be embedded from.
    """

    embed_layers: tuple[str, ...]

    def __call__(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute mask logits (B, Q, h, w) and class logits (B, Q, num_classes + 1) per layer, from first to last."""
        ...

    def map_of(self, pixels: Tensor, layer: str) -> Tensor:
        """Compute the (B, C, h, w) features of one of `embed_layers`."""
        ...

    def backbone_layers(self) -> Mapping[str, int]:
        """Map each parameter of the pretrained part to its layer, counted from the image."""
        ...

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a transformers file, of any version of transformers, to the names of this network."""
        ...


class QuerySegmenter(nn.Module):
    """A Segmenter for query networks.

    The losses `objectness` and `boxes` are 0: the class vector says "no object", and boxes are those of the masks.

    Args:
        num_classes: number of foreground classes.
        transform: resizing and normalisation.
        network: an nn.Module that is a QueryNetwork.
        criterion: loss of each layer.
    """

    def __init__(
        self, *, num_classes: int, transform: ResizeAndNormalise, network: QueryNetwork, criterion: SoftQueryLoss
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed_layers = network.embed_layers
        self.transform = transform
        self.network = network
        self.criterion = criterion

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        """See Segmenter. Losses are summed over the decoder's layers, as in the paper."""
        nothing = next(self.parameters()).sum() * 0.0
        losses: dict[str, Tensor] = dict.fromkeys(sorted(terms), nothing)
        if not terms & {"classes", "masks"}:
            return losses
        with in_mode(self, training=True):
            batch, resized = self.transform(images, [target_dict(target) for target in targets])
            height, width = batch.tensors.shape[-2:]
            objects = [
                QueryTargets(
                    masks=F.pad(one["masks"].float(), (0, width - size[1], 0, height - size[0])),
                    class_probs=one["class_probs"],
                    weights=one["weights"],
                    location_weights=one["location_weights"],
                    class_mask=one["class_mask"],
                )
                for one, size in zip(resized, batch.image_sizes, strict=True)
            ]
            for mask_logits, class_logits in self.network(batch.tensors):
                for term, value in self.criterion.of_layer(mask_logits, class_logits, objects, terms).items():
                    losses[term] = losses[term] + value
        return losses

    @torch.no_grad()
    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        """See Segmenter. If the masks of queries overlap, the query with the highest score is kept."""

        def predict_rows(rows: list[int]) -> list[Instances]:
            batch, _ = self.transform([images[row] for row in rows])
            mask_logits, class_logits = self.network(batch.tensors)[-1]
            padded_height, padded_width = batch.tensors.shape[-2:]
            predictions = []
            for row, masks, logits, seen in zip(rows, mask_logits, class_logits, batch.image_sizes, strict=True):
                size = (images[row].shape[-2], images[row].shape[-1])
                probs = logits.float().softmax(-1)
                kept = distinct_masks(masks.float(), probs, score_threshold)[:max_per_image]
                scales = (
                    masks.shape[-2] / padded_height * seen[0] / size[0],
                    masks.shape[-1] / padded_width * seen[1] / size[1],
                )
                found = map_instances(masks[kept].float().cpu().numpy(), probs[kept].cpu(), scales, size)
                predictions.append(found)
            return predictions

        with in_mode(self, training=False):
            return by_size(images, predict_rows)

    @torch.no_grad()
    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> Tensor:
        """See Segmenter. Embeddings are averages of a feature map over the masks."""
        layer = chosen_layer(self.embed_layers, layer)

        def embed_rows(rows: list[int]) -> list[Tensor]:
            batch, _ = self.transform([images[row] for row in rows])
            features = self.network.map_of(batch.tensors, layer)
            masks = [targets[row].masks_NHW for row in rows]
            height, width = batch.tensors.shape[-2:]
            return average_over_masks(features, masks, batch.image_sizes, (height, width))

        with in_mode(self, training=False):
            return torch.cat(by_size(images, embed_rows))

    def prepared_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a weights file to this model's names. transformers maps the names of its versions."""
        is_own = any(name.startswith("network.") for name in tensors)
        return tensors if is_own else {f"network.{name}": one for name, one in self.network.converted(tensors).items()}

    def backbone_layers(self) -> Mapping[str, int]:
        """Map parameters of the pretrained part to their layers from the image, for layer-wise learning rates."""
        return {f"network.{name}": layer for name, layer in self.network.backbone_layers().items()}
