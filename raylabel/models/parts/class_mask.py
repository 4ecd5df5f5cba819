"""Class losses among some classes only, where not every class was looked for."""

import torch
from torch import Tensor


def among_classes(logits: Tensor, class_probs: Tensor, class_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets of a softmax over the classes that take part.

    The other classes are left out of the softmax and of the targets, which are brought to a sum of 1 again; the
    gradient of their logits is zero.

    Args:
        logits: (..., num_classes + 1) float32.
        class_probs: (..., num_classes + 1), rows sum to 1.
        class_mask: bool, broadcast to the shape of the logits; at least one class of each row's targets.
    """
    if class_mask.all():
        return logits, class_probs
    # Not minus infinity, whose product with a target of 0 is not a number.
    kept = class_probs * class_mask
    return logits.masked_fill(~class_mask, torch.finfo(logits.dtype).min), kept / kept.sum(dim=-1, keepdim=True)
