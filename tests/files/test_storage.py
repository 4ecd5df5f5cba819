"""Commits appear whole or not at all, folders list in order, and paths and URIs behave alike."""

import errno
import os
import random
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from one_line import value_or_line
from raylabel.errors import InputError, StorageError
from raylabel.files import committing, retries
from raylabel.files.committing import commit_bytes
from raylabel.files.digests import digest, file_digest
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.moving import move_folder, remove
from raylabel.files.paths import join, join_each, split
from raylabel.files.reading import SpecialFileError, exists, list_files, read_bytes
from raylabel.files.retries import retried
from raylabel.files.tables import commit_table, read_table, read_table_metadata


@pytest.fixture(params=["path", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same folder, as a path and as a URI."""
    return str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def test_bytes_json_and_tables_read_back(folder: str) -> None:
    commit_bytes(join(folder, "a", "b.bin"), b"\x00\x01")
    commit_json(join(folder, "c.json"), {"x": [1, None]})
    table = pa.table({"n": [1, 2]}).replace_schema_metadata({"key": "value"})
    commit_table(join(folder, "t.parquet"), table)
    assert read_bytes(join(folder, "a", "b.bin")) == b"\x00\x01"
    assert read_json(join(folder, "c.json")) == {"x": [1, None]}
    assert read_table(join(folder, "t.parquet")).equals(table)
    assert read_table_metadata(join(folder, "t.parquet")) == {"key": "value"}


ROOTS = ["", "/", "/a b", "/a/", "a#?%20", "file:///a%20b/", "s3://b", "s3://b/a/?region=x", "https://h/a?b=c"]


@given(
    root=st.sampled_from(ROOTS), names=st.lists(st.text("ab/:%#?.", max_size=9) | st.just("s3://b/c.jpg"), max_size=4)
)
def test_names_are_joined_as_one_by_one(root: str, names: list[str]) -> None:
    assert join_each(root, names) == [join(root, name) for name in names]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_commit_that_is_interrupted_leaves_the_file_as_it_was(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    uri = join(folder, "a.bin")
    commit_bytes(uri, b"before")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(committing.os, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        commit_bytes(uri, b"after")
    monkeypatch.undo()
    assert read_bytes(uri) == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"], "no temporary file is left"


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(committing.os, "fsync", full)
    with pytest.raises(
        StorageError,
        match=rf"^{tmp_path}/a/b\.bin: no space left to write 1,234 bytes \([\d,]+ bytes are free in .*/a\)",
    ):
        commit_bytes(str(tmp_path / "a" / "b.bin"), b"x" * 1234)
    assert list((tmp_path / "a").iterdir()) == []


class Clock:
    """A clock that nobody waits for."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


@given(st.floats(0, 20), st.integers(0, 2**32 - 1))
def test_a_store_is_given_up_after_a_minute_however_fast_it_refuses(answer_seconds: float, seed: int) -> None:
    clock, num_tries = Clock(), 0

    def refused() -> None:
        nonlocal num_tries
        num_tries += 1
        clock.seconds += answer_seconds
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    random.seed(seed)
    with pytest.raises(StorageError, match=r"^x: could not read in \d+ tries in \d+ s: .*Connection refused"):
        retried(refused, uri="x", doing="read", clock=clock, sleep=clock.sleep)
    assert 60 <= clock.seconds <= 60 + 8 + answer_seconds
    assert len(clock.waits) == num_tries - 1 <= 25
    assert all(wait <= min(8, 0.2 * 2**place) for place, wait in enumerate(clock.waits))


@pytest.mark.parametrize("outage_seconds", [3, 30, 55])
def test_an_outage_of_less_than_a_minute_ends_nothing(outage_seconds: float) -> None:
    clock = Clock()

    def busy() -> str:
        if clock.seconds < outage_seconds:
            raise OSError("AWS Error SERVICE_UNAVAILABLE during PutObject operation (HTTP status 503)")
        return "done"

    assert retried(busy, uri="x", doing="write", clock=clock, sleep=clock.sleep) == "done"


def test_momentary_errors_are_tried_again_and_others_are_not() -> None:
    clock, tries = Clock(), 0

    def failing(error: Exception, *, succeeds_at: int = 99) -> str:
        nonlocal tries
        tries += 1
        if tries < succeeds_at:
            raise error
        return "done"

    momentary = (TimeoutError("slow"), ConnectionResetError("x"), OSError("AWS Error SLOW_DOWN during GetObject"),
                 OSError(errno.EIO, "x"), OSError(errno.ESTALE, "x"))  # fmt: skip
    for error in momentary:
        tries = 0
        fails_thrice = partial(failing, error, succeeds_at=4)
        assert retried(fails_thrice, uri="x", doing="read", clock=clock, sleep=clock.sleep) == "done"
        assert tries == 4
    final = {
        FileNotFoundError(errno.ENOENT, "x"): FileNotFoundError,
        IsADirectoryError(errno.EISDIR, "x"): IsADirectoryError,
        OSError(errno.EROFS, "x"): StorageError,
        OSError("AWS Error ACCESS_DENIED during HeadObject operation"): PermissionError,
        OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"): StorageError,
        OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation"): StorageError,
        ValueError("a mistake of the program"): ValueError,
    }
    for error, kind in final.items():
        tries = 0
        with pytest.raises(kind):
            retried(partial(failing, error), uri="x", doing="read")
        assert tries == 1, error


def test_special_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecialFileError):
        read_bytes(str(tmp_path / "pipe"))
    with pytest.raises(SpecialFileError):
        read_bytes("/dev/zero")
    with pytest.raises(IsADirectoryError):
        read_bytes(str(tmp_path))


def test_file_systems_of_fsspec() -> None:
    folder = "memory://runs/first"
    commit_json(join(folder, "deep", "a.json"), [1])
    commit_json(join(folder, "deep", "a.json"), [2])
    assert read_json(join(folder, "deep", "a.json")) == [2]
    assert [info.base_name for info in list_files(folder, recursive=True)] == ["a.json"]
    move_folder(join(folder, "deep"), join(folder, "aside"))
    assert read_json(join(folder, "aside", "a.json")) == [2]
    remove(folder)
    assert not exists(folder)
    with pytest.raises(FileNotFoundError):
        read_bytes("memory://runs/first/absent")


def test_images_of_a_web_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to a busy server are retried. A missing or forbidden file is not."""
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.001)
    statuses = {"/busy.jpg": [503, 429, 200], "/gone.jpg": [404], "/secret.jpg": [403], "/down.jpg": [500] * 6}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = statuses[self.path]
            self.send_response(answers.pop(0) if answers else 500)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"image")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert read_bytes(f"{url}/busy.jpg") == b"image"
        for name, kind in {"gone": FileNotFoundError, "secret": PermissionError}.items():
            with pytest.raises(kind):
                read_bytes(f"{url}/{name}.jpg")
        monkeypatch.setattr(retries, "PATIENCE_SECONDS", 0.5)
        with pytest.raises(StorageError):
            read_bytes(f"{url}/down.jpg")
        assert not any(statuses.values()), "each URL is requested as often as expected"
    finally:
        server.shutdown()
        server.server_close()


def test_unknown_schemes_and_missing_packages_are_named() -> None:
    with pytest.raises(InputError, match=r"^nowhere://x/y: .*nowhere"):
        read_bytes("nowhere://x/y")
    with pytest.raises(InputError, match=r"^az://x/y: .*adlfs"):
        read_bytes("az://x/y")


def test_options_at_the_end_of_a_uri_stay_there() -> None:
    uri = "s3://bucket/run?endpoint_override=127.0.0.1:9000&scheme=http"
    assert join(uri, "labels", "x.json") == "s3://bucket/run/labels/x.json?endpoint_override=127.0.0.1:9000&scheme=http"
    assert join("s3://bucket/what?", "x") == "s3://bucket/what?/x"
    assert join("s3://bucket/a?scheme=http&x=1", "x") == "s3://bucket/a?scheme=http&x=1/x"


def test_a_path_or_uri_splits_into_what_join_takes() -> None:
    options = "?endpoint_override=127.0.0.1:9000&scheme=http"
    assert split(f"s3://bucket/p/pool.jsonl{options}") == (f"s3://bucket/p{options}", "pool.jsonl")
    assert split("s3://bucket/pool.jsonl") == ("s3://bucket", "pool.jsonl")
    assert split("file:///a.json") == ("file:///", "a.json")
    assert split("file:///d/a%20b.json") == ("file:///d", "a b.json")
    assert split("/a.json") == ("/", "a.json")
    assert split("a.json") == ("", "a.json")
    assert split("/runs/x/") == ("/runs", "x")


odd_names = st.text(st.sampled_from("a1.#%?&=[]{}* 犬🐕ö"), min_size=1, max_size=8).filter(lambda name: name.strip("."))


@given(st.sampled_from(["/d", "d", "s3://b/d", "s3://b/d?scheme=http&region=x", "file:///d"]), odd_names)
def test_any_name_survives_joining_and_splitting(folder: str, name: str) -> None:
    assert split(join(folder, name)) == (folder, name)


@pytest.mark.parametrize("name", ["a%20b#1 [2].jpg", "50%.jpg", "犬 🐕.jpg"])
def test_odd_names_are_names_in_paths_and_uris(folder: str, tmp_path: Path, name: str) -> None:
    commit_bytes(join(folder, name), b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_absolute_path_or_a_uri_stands_alone_in_a_join() -> None:
    for whole in ("/data/50%.jpg", "s3://other/x.jpg"):
        assert join("s3://bucket/d?scheme=http", whole) == whole
        assert join("file:///d", whole) == whole


def test_names_that_are_not_utf8_can_be_given_as_file_uris(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.bin")).write_bytes(b"1")
    assert read_bytes(f"{tmp_path.as_uri()}/%FF.bin") == b"1"


def test_listing_is_sorted_and_filtered(folder: str) -> None:
    for name in ("b.txt", "a.txt", ".hidden.txt", "c.json", "deep/d.txt"):
        commit_bytes(join(folder, name), b"")
    assert [info.base_name for info in list_files(folder, suffix=".txt")] == ["a.txt", "b.txt"]
    found = list_files(folder, suffix=".txt", recursive=True)
    assert [info.base_name for info in found] == ["a.txt", "b.txt", "d.txt"]
    assert list_files(join(folder, "absent")) == []


def test_moved_folders_keep_their_files(folder: str) -> None:
    commit_bytes(join(folder, "old", "x", "a.bin"), b"1")
    move_folder(join(folder, "old"), join(folder, "aside", "old"))
    assert read_bytes(join(folder, "aside", "old", "x", "a.bin")) == b"1"
    assert not exists(join(folder, "old"))


def test_remove_takes_files_folders_and_nothing(folder: str) -> None:
    commit_bytes(join(folder, "d", "a.bin"), b"")
    remove(join(folder, "d"))
    remove(join(folder, "d"))
    assert not exists(join(folder, "d"))


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        read_json(str(tmp_path / "absent.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match=r"broken\.json: not JSON"):
        read_json(str(tmp_path / "broken.json"))
    with pytest.raises(InputError, match="nowhere://x"):
        read_json("nowhere://x/y.json")


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder: must be a file to write, got a folder"):
        commit_bytes(str(tmp_path / "folder"), b"")
    for below in ("file/a", "file/a/b"):
        with pytest.raises(InputError, match=f"{below}: cannot create its folder"):
            commit_bytes(str(tmp_path / below), b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("read", [read_json, file_digest])
def test_a_folder_in_place_of_a_file_is_one_line(read: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a file, got a folder"):
        read(str(tmp_path))


@pytest.mark.parametrize("name", ["a\0b", "\udcff", "x" * 300])
def test_a_name_that_no_file_can_have_is_bad_input(name: str, tmp_path: Path) -> None:
    assert "no file can have this name" in value_or_line(lambda: exists(f"{tmp_path}/{name}"))[1]


def test_a_store_that_refuses_the_connection_is_one_line() -> None:
    """FTP's file system connects as soon as it is made."""
    with pytest.raises(StorageError, match=r"^ftp://127\.0\.0\.1:1/a\.jpg: could not connect: .*refused"):
        exists("ftp://127.0.0.1:1/a.jpg")
