"""Downloads of weights that a config names, through torchvision and transformers. Nothing else is downloaded."""

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor

from raylabel.errors import InputError
from raylabel.models.extras import import_extra
from raylabel.models.weights.file import read_tensors

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def download_weights(package: str, name: str) -> dict[str, Tensor]:
    """Get weights by name from the package's cache or the network.

    Args:
        package: `torchvision` or `transformers`.
        name: a member of torchvision's weights enums, or a repository of the Hugging Face hub.

    Raises:
        InputError: there are no such weights, or the download fails.
    """
    return _from_torchvision(name) if package == "torchvision" else _from_hub(name)


def _from_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight  # here, because torchvision takes seconds to load

    try:
        weights: Any = get_weight(name)
    except (ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"weights torchvision:{name}: no such weights. Use a name from torchvision's documentation, "
            "such as MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1."
        ) from error
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise InputError(_refusal(f"torchvision:{name}", weights.url, error)) from error


def _from_hub(name: str) -> dict[str, Tensor]:
    import_extra("transformers", extra="transformers", needed_by=f"weights transformers:{name}")
    hub = importlib.import_module("transformers.utils")
    errors = []
    for file_name in HUB_FILES:
        try:
            return read_tensors(Path(hub.cached_file(name, file_name)))
        except (OSError, ValueError) as error:
            errors.append(error)
    raise InputError(_refusal(f"transformers:{name}", f"{name}/{HUB_FILES[0]}", errors[0])) from errors[0]


def _refusal(weights: str, file: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:160]
    return (
        f"weights {weights}: can't be downloaded ({reason}). Download {file} on a machine with a network, "
        "and set weights to the local file."
    )
