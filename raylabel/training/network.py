"""How a network computes: number format, memory layout, compilation."""

import torch
from torch import nn

from raylabel.config import OptimizerConfig, Precision
from raylabel.models.segmenter import Segmenter


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Number format of mixed precision on a device; None for float32."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        # bfloat16 needs no loss scaling; older GPUs have float16 only.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def prepare_network(segmenter: Segmenter, settings: OptimizerConfig, *, backend: str = "inductor") -> None:
    """Put a model's tensors into channels-last order and compile its network in place, as the settings say.

    Names and values of its state stay. What is compiled is the part called `network`, else `backbone`, else all
    parts: the rest of a detector (matching, suppression of duplicates) is bookkeeping that changes with every image.

    Args:
        segmenter: a torch.nn.Module.
        settings: `channels_last` and `compile`.
        backend: of torch.compile.
    """
    assert isinstance(segmenter, nn.Module)
    if settings.channels_last:
        segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no overload for it
    if settings.compile:
        # DDP would have the graph cut at its buckets, which fails for dynamic shapes.
        torch._dynamo.config.optimize_ddp = False
        for module in _network(segmenter):
            module.compile(dynamic=True, backend=backend)


def _network(segmenter: nn.Module) -> list[nn.Module]:
    parts = dict(segmenter.named_children())
    return next(([parts[name]] for name in ("network", "backbone") if name in parts), list(parts.values()))
