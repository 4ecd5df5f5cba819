"""Saved models: folders with `model.safetensors` and `model.json`."""

import json
from collections.abc import Collection
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from raylabel.errors import InputError, shown
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.paths import join
from raylabel.files.reading import read_bytes
from raylabel.models.build import build_segmenter
from raylabel.models.description import DESCRIPTION_FILE, read_description
from raylabel.models.segmenter import Segmenter

WEIGHTS_FILE = "model.safetensors"


def save_segmenter(segmenter: Segmenter, folder_uri: str, description: dict[str, Any]) -> None:
    """Write a model into a folder. The description is written last, so its presence means a whole model.

    Args:
        segmenter: model whose weights are saved unchanged.
        folder_uri: path or URI of the folder; created if absent.
        description: JSON-able content of `model.json`. It must have `model`, see `build_segmenter`, and may have
            `min_size` and `model_options`. `num_classes` is added.
    """
    assert "model" in description, "description must name the model"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in segmenter.state_dict().items()}
    full = {"min_size": None, **description, "num_classes": segmenter.num_classes}
    commit_bytes(join(folder_uri, WEIGHTS_FILE), save(tensors))
    commit_json(join(folder_uri, DESCRIPTION_FILE), full)


def load_segmenter(folder_uri: str, own_classes: Collection[str] = ()) -> tuple[Segmenter, dict[str, Any]]:
    """Load a saved model in eval mode on the CPU, and its description.

    Args:
        folder_uri: path or URI of the folder.
        own_classes: users' classes, `module:Class`, that the config names. The description of a saved model may be
            another person's, and importing a class runs its module.

    Raises:
        InputError: the folder has no saved model, its description is damaged, its weights don't fit the model that it
            names, or the model is a class that is not in `own_classes`.
    """
    description, content = read_description(join(folder_uri, DESCRIPTION_FILE))
    model = description.model
    if ":" in model and model not in own_classes:
        raise InputError(
            f"{join(folder_uri, DESCRIPTION_FILE)}: the model {shown(model)} is imported only if the config names it. "
            "Set teacher.model or student.model to it, if you trust its code."
        )
    segmenter = build_segmenter(
        model,
        num_classes=description.num_classes,
        min_size=description.min_size,
        options=description.model_options,
    )
    path = join(folder_uri, WEIGHTS_FILE)
    try:
        segmenter.load_state_dict(load(read_bytes(path)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: doesn't fit {json.dumps(model)}: {' '.join(str(error).split())[:200]}") from error
    return segmenter.eval(), content
