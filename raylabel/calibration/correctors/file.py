"""The file of a corrector: its parameters, the categories that it was fitted to, and a digest of both."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.calibration.correctors.base import Corrector
from raylabel.errors import InputError
from raylabel.files.digests import digest
from raylabel.files.json_files import commit_json, read_json


def commit_corrector(
    uri: str, corrector: Corrector, category_ids: Sequence[int] | NDArray[np.integer], **more: Any
) -> None:
    """Write a corrector to a JSON file.

    Args:
        uri: path or URI of the file.
        corrector: the fitted corrector.
        category_ids: (num_classes,) category id of each class, because `raylabel correct` reads results files.
        more: further entries as JSON-able values.
    """
    content = {**corrector.to_json(), "category_ids": np.asarray(category_ids).tolist(), **more}
    commit_json(uri, content | {"digest": digest(content)})


def read_corrector_content(uri: str, *, remedy: str) -> Any:
    """Read the content of a corrector's file without its digest. Files of early versions have none.

    The digest is checked before the content is used, because LightGBM crashes on trees that were changed.

    Args:
        uri: path or URI of the file.
        remedy: last sentence of the message about a changed file.

    Raises:
        InputError: the file is missing, not JSON, or was changed.
    """
    content = read_json(uri)
    if isinstance(content, dict):
        stated = content.pop("digest", None)
        if stated is not None and stated != digest(content):
            raise InputError(f"{uri}: was changed after calibrate wrote it. {remedy}")
    return content
