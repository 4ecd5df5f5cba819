"""JSON files, read and committed whole."""

import json
from typing import Any

from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.json_text import parse_json
from raylabel.files.reading import read_users_file


def commit_json(uri: str, content: Any) -> None:
    """Commit a value as indented JSON."""
    commit_bytes(uri, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Read a JSON file, see `parse_json`.

    Raises:
        InputError: the file is missing or not JSON; the message names it.
    """
    return parse_json(read_users_file(uri), uri)


def read_json_object(uri: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: the file is missing, not JSON, or holds something else; the message names it.
    """
    content = read_json(uri)
    if not isinstance(content, dict):
        raise InputError(f"{uri}: must be a JSON object, got {type(content).__name__}")
    return content
