"""Names of paths and URIs: joined, split, and checked as text. No store is asked."""

import posixpath
from collections.abc import Iterable
from urllib.parse import unquote

from raylabel.files.file_systems import split_options

_FILE = "file://"


def join(uri: str, *parts: str) -> str:
    """Append path parts to a path or URI. Options at the end of the URI stay at the end.

    Parts are names: "#", "?" and "%" stand for themselves. An absolute path or a URI among the parts replaces
    everything before it, as in `posixpath.join`.
    """
    for place, part in enumerate(parts):
        if "://" in part or posixpath.isabs(part):
            return join(part, *parts[place + 1 :])
    base, options = split_options(uri)
    if base.startswith(_FILE):
        parts = tuple(part.replace("%", "%25") for part in parts)
    return posixpath.join(base, *parts) + options


def join_each(uri: str, names: Iterable[str]) -> list[str]:
    """Append each name to a path or URI, as `join` does, and quicker for many names."""
    base, options = split_options(uri)
    prefix, is_quoted = posixpath.join(base, ""), base.startswith(_FILE)
    return [
        join(uri, name) if is_quoted or name.startswith("/") or "://" in name else f"{prefix}{name}{options}"
        for name in names
    ]


def split(uri: str) -> tuple[str, str]:
    """Split a path or URI into its folder and its name. `join` puts them together again.

    Options at the end of the URI go to the folder. A slash at the end of the path does not count.
    """
    base, options = split_options(uri)
    folder, slash, name = base.rstrip("/").rpartition("/")
    if not folder or folder == _FILE:  # the root of a disk
        folder += slash
    return folder + options, unquote(name, errors="surrogateescape") if base.startswith(_FILE) else name


def climbs_out(relative: str) -> bool:
    """Tell whether a relative path leads out of its folder."""
    return posixpath.isabs(relative) or posixpath.normpath(relative).split("/", 1)[0] == ".."
