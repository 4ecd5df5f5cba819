"""Number format, memory layout and compilation of a network in training."""

import torch
from torch import nn

from raylabel.config import OptimizerConfig, Precision
from raylabel.models.segmenter import Segmenter


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the number format of mixed precision on a device, or None for float32."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        # bfloat16 comes first, because it needs no loss scaling. Older GPUs only have float16.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def prepare_network(segmenter: Segmenter, settings: OptimizerConfig, *, backend: str = "inductor") -> None:
    """Change a model to channels-last order and compile its network in place, if the settings say so.

    Names and values of the state stay the same. Only the part called `network` is compiled, else `backbone`, else all
    parts. The rest of a detector (matching, suppression of duplicates) takes other paths for every image.

    Args:
        segmenter: a torch.nn.Module.
        settings: `channels_last` and `compile`.
        backend: backend of torch.compile.
    """
    assert isinstance(segmenter, nn.Module)
    if settings.channels_last:
        segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares no overload for it
    if settings.compile:
        # Off, because DDP cuts the graph at its buckets, and that fails for dynamic shapes.
        torch._dynamo.config.optimize_ddp = False
        for module in _network(segmenter):
            module.compile(dynamic=True, backend=backend)


def _network(segmenter: nn.Module) -> list[nn.Module]:
    parts = dict(segmenter.named_children())
    return next(([parts[name]] for name in ("network", "backbone") if name in parts), list(parts.values()))
