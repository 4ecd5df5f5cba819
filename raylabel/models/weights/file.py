"""Tensors by name from a local file, without unpickling objects."""

from pathlib import Path
from pickle import UnpicklingError
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raylabel.errors import InputError

GRAPH = "graph"
"""Name of the tensor that holds the bytes of an `.onnx` file."""


def weights_path(weights: str | Path) -> Path:
    """Find the file with the tensors. For the folder of a saved model it is `model.safetensors`."""
    path = Path(weights)
    return path / "model.safetensors" if path.is_dir() else path


def read_tensors(weights: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name.

    The file is a `.safetensors` file or a torch state dict, perhaps below the key `model` or `state_dict`. The folder
    of a saved model works too. An `.onnx` file gives its bytes as the tensor GRAPH.

    Raises:
        InputError: the file is missing or not a state dict.
    """
    path = weights_path(weights)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        if path.suffix == ".onnx":
            return {GRAPH: torch.from_numpy(np.fromfile(path, np.uint8))}
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, BadZipFile, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a weights file: {' '.join(str(error).split())[:200]}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: must hold a state dict of tensors, got {type(content).__name__}")
    return content
