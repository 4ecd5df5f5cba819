"""Whether a shard's file belongs to the labels in whose folder it lies. Every reader of shards asks.

A worker that outlives its driver, or a hand that copies files, can leave a shard of other settings or of another number
in the folder.
"""

from collections.abc import Mapping

from raylabel.errors import InputError
from raylabel.files.json_files import read_json_object
from raylabel.files.paths import join, split
from raylabel.files.reading import exists

_expected: dict[str, str] = {}
"""Folder -> fingerprint of its `started.json`, as this process has read it last."""


class ForeignShardError(InputError):
    """A shard's file that does not belong to the labels in whose folder it lies."""


def check_own(shard_uri: str, metadata: Mapping[str, str]) -> None:
    """Check that the metadata of a shard's file have the fingerprint of its folder, and the number of its name.

    Files in a folder without `started.json` are not checked.

    Raises:
        ForeignShardError: they have not.
    """
    if not is_own(shard_uri, metadata):
        raise ForeignShardError(
            f"{shard_uri}: made with other settings or data than the labels beside it. Run label again: it sets the "
            "file aside and makes the shard again."
        )


def is_own(shard_uri: str, metadata: Mapping[str, str]) -> bool:
    """Tell whether a shard's file belongs to the labels in whose folder it lies."""
    folder, name = split(shard_uri)
    fingerprint = metadata.get("fingerprint")
    # Read again before a refusal, because labels of other settings may have been started in the folder since.
    if _expected.get(folder) != fingerprint or fingerprint is None:
        started_uri = join(folder, "started.json")
        if not exists(started_uri):
            return True
        _expected[folder] = str(read_json_object(started_uri)["fingerprint"])
    number = name.removeprefix("shard-").removesuffix(".parquet")
    return _expected[folder] == fingerprint and int(metadata.get("shard_id", number)) == int(number)
