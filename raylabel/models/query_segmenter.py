"""A segmenter of queries, each of which gives a soft vector and a mask. Importing it needs transformers."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from raylabel.instances import Instances
from raylabel.models.mask_embedding import average_over_masks
from raylabel.models.mask_parts import MaskPart, assemble_instances, mask_part
from raylabel.models.preprocessing import ResizeAndNormalise, in_mode, rows_by_size, target_dict
from raylabel.models.protocols import LOSS_TERMS, LossTerm, Target, chosen_layer
from raylabel.models.soft_query_loss import QueryTargets, SoftQueryLoss, mask_iou_matrix

DUPLICATE_IOU = 0.5
NUM_CANDIDATES = 300


class QueryNetwork(Protocol):
    """What the families differ in.

    Attributes:
        embed_layers: names of the maps that instances can be embedded from.
    """

    embed_layers: tuple[str, ...]

    def __call__(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mask logits (B, Q, h, w) and class logits (B, Q, num_classes + 1) of each layer, the last one at the end."""
        ...

    def map_of(self, pixels: Tensor, layer: str) -> Tensor:
        """(B, C, h, w) features of one of `embed_layers`."""
        ...

    def backbone_layers(self) -> Mapping[str, int]:
        """Layer of each parameter of the pretrained part, counted from the image."""
        ...

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file of transformers, of any of its versions, under the names of this network."""
        ...


class QuerySegmenter(nn.Module):
    """Implements raylabel.models.protocols.Segmenter for networks of queries.

    There are no proposals: what is no object is said by the classes, and the boxes are those of the masks. So the terms
    `objectness` and `boxes` are 0.

    Args:
        num_classes: number of foreground classes.
        transform: resizing and normalisation.
        network: an nn.Module that is a QueryNetwork.
        criterion: the loss of each layer.
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

    def forward(
        self, images: list[Tensor], targets: Sequence[Target], terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        """As `losses`."""
        return self.losses(images, targets, terms=terms)

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> dict[str, Tensor]:
        """See Segmenter; the sum over the decoder's layers, as in the paper."""
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
        """See Segmenter; of queries whose masks overlap, the one with the higher score is left."""
        predictions: dict[int, Instances] = {}
        with in_mode(self, training=False):
            for rows in rows_by_size(images):
                batch, _ = self.transform([images[row] for row in rows])
                mask_logits, class_logits = self.network(batch.tensors)[-1]
                padded_height, padded_width = batch.tensors.shape[-2:]
                for row, masks, logits, seen in zip(rows, mask_logits, class_logits, batch.image_sizes, strict=True):
                    size = (images[row].shape[-2], images[row].shape[-1])
                    probs = logits.float().softmax(-1)
                    kept = _without_duplicates(masks.float(), probs, score_threshold)[:max_per_image]
                    scales = (
                        masks.shape[-2] / padded_height * seen[0] / size[0],
                        masks.shape[-1] / padded_width * seen[1] / size[1],
                    )
                    predictions[row] = _instances(masks[kept].float().cpu().numpy(), probs[kept].cpu(), scales, size)
        return [predictions[row] for row in range(len(images))]

    @torch.no_grad()
    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> Tensor:
        """See Segmenter; a map of the network, averaged over the masks."""
        layer = chosen_layer(self.embed_layers, layer)
        embeddings: dict[int, Tensor] = {}
        with in_mode(self, training=False):
            for rows in rows_by_size(images):
                batch, _ = self.transform([images[row] for row in rows])
                features = self.network.map_of(batch.tensors, layer)
                masks = [targets[row].masks_NHW for row in rows]
                height, width = batch.tensors.shape[-2:]
                parts = average_over_masks(features, masks, batch.image_sizes, (height, width))
                embeddings |= dict(zip(rows, parts, strict=True))
        return torch.cat([embeddings[row] for row in range(len(images))])

    def named_as_here(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file under this model's names; transformers knows how those of its versions differ."""
        is_own = any(name.startswith("network.") for name in tensors)
        return tensors if is_own else {f"network.{name}": one for name, one in self.network.converted(tensors).items()}

    def backbone_layers(self) -> Mapping[str, int]:
        """Layer of each parameter of the pretrained part, counted from the image, for layer-wise learning rates."""
        return {f"network.{name}": layer for name, layer in self.network.backbone_layers().items()}


def _without_duplicates(mask_logits: Tensor, probs: Tensor, score_threshold: float) -> Tensor:
    """Rows of queries by falling score, as far as their masks are not empty and overlap none with a higher score."""
    scores = probs[:, :-1].amax(dim=1)
    is_inside = mask_logits.flatten(1) > 0
    rows = torch.where((scores >= score_threshold) & is_inside.any(dim=1))[0]
    rows = rows[torch.sort(scores[rows], descending=True, stable=True).indices][:NUM_CANDIDATES]
    overlaps = (mask_iou_matrix(is_inside[rows], is_inside[rows]) > DUPLICATE_IOU).cpu().numpy()
    is_kept = np.ones(len(rows), bool)
    for place in range(len(rows)):
        is_kept[place] = not (overlaps[place, :place] & is_kept[:place]).any()
    return rows[torch.from_numpy(is_kept).to(rows.device)]


def _instances(
    mask_logits: NDArray[np.float32], probs: Tensor, scales: tuple[float, float], image_size_hw: tuple[int, int]
) -> Instances:
    parts = [mask_part(*upsample_inside(logits, scales, image_size_hw)) for logits in mask_logits]
    boxes = np.array([_box(part) for part in parts], np.float32).reshape(-1, 4)
    return assemble_instances(parts, boxes, probs.numpy().astype(np.float32), image_size_hw)


def _box(part: MaskPart | None) -> tuple[int, int, int, int]:
    if part is None:
        return (0, 0, 0, 0)
    rows, columns = (np.flatnonzero(part.is_mask.any(axis=axis)) for axis in (1, 0))
    top, left = part.corner
    return (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)


def upsample_inside(
    logits: NDArray[np.float32], scales: tuple[float, float], image_size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """Probabilities of a mask where it may be foreground, and where they belong (rows, columns of the image).

    Bilinear between logits, with the values of `F.interpolate(..., align_corners=False)`; only the part around positive
    logits is made, so that a hundred masks of a large image stay cheap.

    Args:
        logits: (h, w), some of them positive; may reach beyond the image, which is then padded.
        scales: cells of the map per pixel of the image, down and across.
        image_size_hw: size of the image.
    """
    matrices, places = [], []
    for axis in (0, 1):
        cells = np.flatnonzero((logits > 0).any(axis=1 - axis))
        # A pixel is positive only between a positive cell and its neighbours.
        first = max(int((cells[0] - 0.5) / scales[axis]), 0)
        last = min(int(np.ceil((cells[-1] + 1.5) / scales[axis])), image_size_hw[axis])
        matrix = _weights(first, max(last, first), scales[axis], logits.shape[axis])
        matrices.append(matrix)
        places.append(slice(first, first + len(matrix)))
    down, across = matrices
    inside = down @ logits @ across.T
    return 1 / (1 + np.exp(-inside.clip(-80, 80))), (places[0], places[1])


def _weights(first: int, last: int, scale: float, num_cells: int) -> NDArray[np.float32]:
    """(last - first, num_cells) weights of bilinear interpolation along one axis."""
    at = np.clip((np.arange(first, last) + 0.5) * scale - 0.5, 0, num_cells - 1)
    low = np.minimum(at.astype(np.int64), num_cells - 1)
    high = np.minimum(low + 1, num_cells - 1)
    share = (at - low).astype(np.float32)
    weights = np.zeros((len(at), num_cells), np.float32)
    rows = np.arange(len(at))
    weights[rows, low] += 1 - share
    weights[rows, high] += share
    return weights
