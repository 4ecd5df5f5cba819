"""model.json, the description of a saved model. It is read without torch, because bad input needs no seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, StrictInt, StrictStr

from raylabel.files.json_files import read_json_object
from raylabel.files.json_text import checked_as

DESCRIPTION_FILE = "model.json"

MAX_CLASSES = 1_000_000
"""Most classes that a description may name, because a wrong number fills the memory before the weights refuse it."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """The part of model.json from which the model is built. See `build_segmenter`."""

    model: StrictStr
    num_classes: Annotated[StrictInt, Field(ge=0, le=MAX_CLASSES)]
    min_size: Annotated[StrictInt, Field(ge=1)] | None = None
    model_options: Mapping[str, Any] | None = field(default_factory=dict)


def read_description(uri: str) -> tuple[ModelDescription, dict[str, Any]]:
    """Read a model.json. Return the part that builds the model, and the whole content.

    Raises:
        InputError: the file is missing or no JSON object, or a field is missing or has the wrong type.
    """
    content = read_json_object(uri)
    return checked_as(ModelDescription, content, uri), content
