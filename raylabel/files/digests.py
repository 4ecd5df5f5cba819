"""Digests of values and of files."""

import hashlib
import json
from typing import Any

from raylabel.files.reading import PIECE_BYTES, open_users_file


def digest(content: Any) -> str:
    """Return the SHA-256 of a value that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(uri: str) -> str:
    """Return the SHA-256 of a file's content. The file is read as a stream.

    Raises:
        InputError: the file is missing.
    """
    hashed = hashlib.sha256()
    with open_users_file(uri) as file:
        while piece := file.read(PIECE_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()
