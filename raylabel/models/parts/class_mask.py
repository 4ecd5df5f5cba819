"""Class losses over the classes that an image was searched for."""

import torch
from torch import Tensor


def among_classes(logits: Tensor, class_probs: Tensor, class_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Restrict the logits and targets of a softmax to the classes that take part.

    The other classes leave the softmax and the targets, and their logits get no gradient. The remaining targets are
    rescaled to sum to 1.

    Args:
        logits: (..., num_classes + 1) float32.
        class_probs: (..., num_classes + 1). Rows sum to 1.
        class_mask: bool, broadcast to the shape of the logits. It has at least one class of each row's targets.
    """
    if class_mask.all():
        return logits, class_probs
    # The minimum instead of minus infinity, because minus infinity times a target of 0 is NaN.
    kept = class_probs * class_mask
    return logits.masked_fill(~class_mask, torch.finfo(logits.dtype).min), kept / kept.sum(dim=-1, keepdim=True)
