"""Storage: commits appear whole or not at all, folders list in order, paths and URIs are the same thing."""

from pathlib import Path

import pyarrow as pa
import pytest

from raylabel import storage
from raylabel.errors import InputError


@pytest.fixture(params=["path", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same folder as a path and as a URI."""
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def test_bytes_json_and_tables_read_back(folder: str) -> None:
    storage.commit_bytes(storage.join(folder, "a", "b.bin"), b"\x00\x01")
    storage.commit_json(storage.join(folder, "c.json"), {"x": [1, None]})
    table = pa.table({"n": [1, 2]}).replace_schema_metadata({"key": "value"})
    storage.commit_table(storage.join(folder, "t.parquet"), table)
    assert storage.read_bytes(storage.join(folder, "a", "b.bin")) == b"\x00\x01"
    assert storage.read_json(storage.join(folder, "c.json")) == {"x": [1, None]}
    assert storage.read_table(storage.join(folder, "t.parquet")).equals(table)
    assert storage.read_table_metadata(storage.join(folder, "t.parquet")) == {"key": "value"}


def test_a_commit_that_fails_leaves_the_file_as_it_was(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.join(folder, "a.bin")
    storage.commit_bytes(uri, b"before")

    class InterruptedMoveError(Exception):
        pass

    real = storage.fs.LocalFileSystem.move

    def killed(self: object, source: str, target: str) -> None:
        raise InterruptedMoveError

    patched = type("Patched", (storage.fs.LocalFileSystem,), {"move": killed})
    monkeypatch.setattr(storage, "open_uri", lambda uri: (patched(), uri.removeprefix("file://")))
    with pytest.raises(InterruptedMoveError):
        storage.commit_bytes(uri, b"after")
    monkeypatch.undo()
    assert real is storage.fs.LocalFileSystem.move
    assert storage.read_bytes(uri) == b"before"
    assert [info.base_name for info in storage.list_files(folder)] == ["a.bin"], "unfinished files are not listed"


def test_listing_is_sorted_and_filtered(folder: str) -> None:
    for name in ("b.txt", "a.txt", ".hidden.txt", "c.json", "deep/d.txt"):
        storage.commit_bytes(storage.join(folder, name), b"")
    assert [info.base_name for info in storage.list_files(folder, suffix=".txt")] == ["a.txt", "b.txt"]
    found = storage.list_files(folder, suffix=".txt", recursive=True)
    assert [info.base_name for info in found] == ["a.txt", "b.txt", "d.txt"]
    assert storage.list_files(storage.join(folder, "absent")) == []


def test_moved_folders_keep_their_files(folder: str) -> None:
    storage.commit_bytes(storage.join(folder, "old", "x", "a.bin"), b"1")
    storage.move_folder(storage.join(folder, "old"), storage.join(folder, "aside", "old"))
    assert storage.read_bytes(storage.join(folder, "aside", "old", "x", "a.bin")) == b"1"
    assert not storage.exists(storage.join(folder, "old"))


def test_remove_takes_files_folders_and_nothing(folder: str) -> None:
    storage.commit_bytes(storage.join(folder, "d", "a.bin"), b"")
    storage.remove(storage.join(folder, "d"))
    storage.remove(storage.join(folder, "d"))
    assert not storage.exists(storage.join(folder, "d"))


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert storage.digest({"a": 1, "b": 2}) == storage.digest({"b": 2, "a": 1})
    assert storage.digest({"a": 1}) != storage.digest({"a": 2})


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        storage.read_json(str(tmp_path / "absent.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.json: not JSON"):
        storage.read_json(str(tmp_path / "broken.json"))
    with pytest.raises(InputError, match="nowhere://x"):
        storage.read_json("nowhere://x/y.json")


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder: must be a file to write, is a folder"):
        storage.commit_bytes(str(tmp_path / "folder"), b"")
    for below in ("file/a", "file/a/b"):
        with pytest.raises(InputError, match=f"{below}: its folder can't be made"):
            storage.commit_bytes(str(tmp_path / below), b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
