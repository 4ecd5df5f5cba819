"""Runs and pools on an S3 store that works, fails or hangs."""

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import fs

from object_store import FlakyProxy
from raylabel.dataset.annotations import read_annotations
from raylabel.dataset.image_files import check_images_exist
from raylabel.dataset.images import read_image
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.listing import iter_pool
from raylabel.dataset.synthetic.generate import generate
from raylabel.errors import StorageError
from raylabel.files import retries
from raylabel.files.committing import commit_bytes
from raylabel.files.file_systems import open_uri
from raylabel.files.json_files import commit_json
from raylabel.files.moving import move_folder, remove
from raylabel.files.paths import join
from raylabel.files.reading import exists, file_bytes, list_files, read_bytes
from raylabel.files.stored_file import StoredFile
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards, shard_uri

MIB = 2**20


@pytest.fixture
def proxy(s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """A failing proxy for all requests, with short waits between tries."""
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(retries, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr("raylabel.files.file_systems._S3_ATTEMPTS", 1)
    with FlakyProxy(s3_endpoint, fail_every=3) as one:
        monkeypatch.setenv("AWS_ENDPOINT_URL", one.endpoint)
        yield one


def test_a_run_folder_on_a_bucket(s3_bucket: str) -> None:
    run = RunFolder(f"{s3_bucket}/runs/first")
    assert run.artifact("label") is None
    run.commit_artifact("label", {"fingerprint": "x"})
    table = pa.table({"n": [1, 2]}).replace_schema_metadata({"key": "value"})
    commit_table(run.path("labels", "shard-00000000.parquet"), table)
    assert run.artifact("label") == {"fingerprint": "x"}
    assert read_table(run.path("labels", "shard-00000000.parquet")).equals(table)
    assert read_table_metadata(run.path("labels", "shard-00000000.parquet")) == {"key": "value"}
    assert [info.base_name for info in list_files(run.path("labels"))] == ["shard-00000000.parquet"]
    assert list_files(run.path("absent")) == []

    move_folder(run.path("labels"), run.path("superseded", "labels"))
    assert not exists(run.path("labels", "shard-00000000.parquet"))
    assert read_table(run.path("superseded", "labels", "shard-00000000.parquet")).equals(table)
    remove(run.path("superseded"))
    remove(run.path("superseded"))
    assert not exists(run.path("superseded", "labels", "shard-00000000.parquet"))


def listed(uri: str) -> list[PoolImage]:
    return sorted(iter_pool(uri), key=lambda image: image.image_id)


def picture_pool(uri: str) -> list[PoolImage]:
    """A pool of one image."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    commit_bytes(join(uri, "a.png"), buffer.getvalue())
    return listed(uri)


def test_a_listing_tells_sizes(s3_bucket: str) -> None:
    """`check` then asks for none."""
    [image] = picture_pool(f"{s3_bucket}/pool")
    assert image.num_bytes == len(read_bytes(image.uri)) == file_bytes(image.uri)
    assert file_bytes(f"{s3_bucket}/absent.png") is None


def test_endpoint_and_credentials_may_be_in_the_uri(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    host = s3_endpoint.removeprefix("http://")
    bucket = s3_bucket.replace("s3://", "s3://key:secret@")
    run = RunFolder(f"{bucket}/run?endpoint_override={host}&scheme=http&region=us-east-1")
    run.commit_artifact("label", {"fingerprint": "x"})
    assert run.artifact("label") == {"fingerprint": "x"}
    assert run.path("a", "b.json").startswith(f"{bucket}/run/a/b.json?endpoint_override=")
    commit_table(shard_uri(run, 3), pa.table({"n": [1]}))
    [uri] = committed_shards(run).values()
    assert read_table(uri).num_rows == 1
    (image,) = picture_pool(run.path("pool"))
    assert read_image(image.uri, max_pixels=100).shape == (1, 1, 3)


def test_options_of_a_uri_reach_the_images_that_its_files_name(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = f"?endpoint_override={s3_endpoint.removeprefix('http://')}&scheme=http&region=us-east-1"
    folder = f"{s3_bucket}/p{options}"
    names = ["a#1.png", "b%20c [d].png", "犬 🐕.png"]
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "PNG")
    for name in names:
        commit_bytes(join(folder, name), buffer.getvalue())
    commit_bytes(join(folder, "pool.jsonl"), "".join(json.dumps({"uri": name}) + "\n" for name in names).encode())
    images = [{"id": number, "file_name": name, "height": 1, "width": 1} for number, name in enumerate(names)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    commit_json(join(folder, "labelled.json"), content)

    annotated = read_annotations(join(folder, "labelled.json"))
    assert check_images_exist({"labelled": annotated}).unnamed == {}
    pool = listed(join(folder, "pool.jsonl"))
    assert [image.image_id for image in pool] == names
    for uri in [image.uri for image in pool] + [image.uri for image in annotated.images]:
        assert read_image(uri, max_pixels=100).shape == (1, 1, 3)
    assert RunFolder(f"{s3_bucket}/run{options}").nested("round-2").outer == RunFolder(f"{s3_bucket}/run{options}")


def test_the_endpoint_of_s3_alone_comes_first(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    commit_bytes(f"{s3_bucket}/x", b"1")
    assert read_bytes(f"{s3_bucket}/x") == b"1"


def test_keys_of_a_profile(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[labelling]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "labelling")
    commit_bytes(f"{s3_bucket}/x", b"1")
    assert read_bytes(f"{s3_bucket}/x") == b"1"


def test_names_are_taken_as_they_are(s3_bucket: str) -> None:
    for name in ("a b.bin", "a%20b.bin", "a#b.bin", "a?b=c.bin", "ä/ö.bin"):
        commit_bytes(f"{s3_bucket}/names/{name}", name.encode())
        assert read_bytes(f"{s3_bucket}/names/{name}") == name.encode()
    found = list_files(f"{s3_bucket}/names", recursive=True)
    assert len(found) == 5


def test_a_pool_on_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    generate(tmp_path, num_images=40, num_classes=3, image_size=64)
    for path in sorted((tmp_path / "pool").iterdir()):
        commit_bytes(f"{s3_bucket}/pool/deep/{path.name}", path.read_bytes())
    local, remote = listed(str(tmp_path / "pool")), listed(f"{s3_bucket}/pool")
    assert [image.image_id for image in remote] == [f"deep/{image.image_id}" for image in local]
    for ours, theirs in zip(remote[:3], local[:3], strict=True):
        np.testing.assert_array_equal(*(read_image(one.uri, max_pixels=10_000) for one in (ours, theirs)))


def test_what_is_not_there_is_missing_not_an_error_of_the_store(s3_bucket: str) -> None:
    for uri in (f"{s3_bucket}/absent.json", "s3://no-such-bucket/absent.json"):
        with pytest.raises(FileNotFoundError):
            read_bytes(uri)
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        commit_bytes("s3://no-such-bucket/x", b"1")


def test_an_upload_that_fails_is_never_seen(s3_bucket: str, proxy: FlakyProxy) -> None:
    """Also holds for uploads in parts, where a stream closed after an error would publish the earlier parts."""
    uri = f"{s3_bucket}/large.bin"
    commit_bytes(uri, b"before")
    proxy.down_after = 0
    for size in (10, 25 * MIB):
        with pytest.raises(StorageError, match=r"large\.bin: could not write in \d+ tries"):
            commit_bytes(uri, b"x" * size)
    proxy.down_after = None
    assert read_bytes(uri) == b"before"


def test_an_upload_of_which_one_part_fails_is_never_seen(s3_bucket: str, proxy: FlakyProxy) -> None:
    uri = f"{s3_bucket}/parts.bin"
    proxy.down_after = proxy.num_requests + 2
    with pytest.raises(StorageError):
        commit_bytes(uri, b"x" * 25 * MIB)
    proxy.down_after = None
    assert proxy.num_requests > 2
    assert not exists(uri)


def test_a_small_file_is_one_request(s3_bucket: str, proxy: FlakyProxy) -> None:
    proxy.fail_every = 0
    for size in (0, 10, 8 * MIB):
        before = proxy.num_requests
        commit_bytes(f"{s3_bucket}/small.bin", b"x" * size)
        assert proxy.num_requests == before + 1


def test_what_fails_for_a_moment_is_tried_again(s3_bucket: str, proxy: FlakyProxy) -> None:
    content = np.random.default_rng(0).bytes(12 * MIB)
    proxy.fail_every = 7
    commit_bytes(f"{s3_bucket}/large.bin", content)
    proxy.fail_every = 3
    for index in range(5):
        commit_bytes(f"{s3_bucket}/many/{index}.bin", content[:1000])
    assert read_bytes(f"{s3_bucket}/large.bin") == content
    assert len(list_files(f"{s3_bucket}/many")) == 5
    file = StoredFile(f"{s3_bucket}/large.bin")
    assert [file.read_at(10, MIB * part) for part in range(12)] == [content[MIB * p :][:10] for p in range(12)]
    proxy.fail_every = 7  # because deleting an object takes four requests
    move_folder(f"{s3_bucket}/many", f"{s3_bucket}/aside")
    assert len(list_files(f"{s3_bucket}/aside")) == 5
    remove(f"{s3_bucket}/aside")
    assert proxy.num_failed > 10


def test_a_store_that_does_not_answer_is_given_up_soon(
    s3_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylabel.files.file_systems.REQUEST_SECONDS", 1)
    monkeypatch.setattr(retries, "PATIENCE_SECONDS", 3)
    with FlakyProxy(s3_endpoint, hang_every=1) as hanging:
        monkeypatch.setenv("AWS_ENDPOINT_URL", hanging.endpoint)
        start = time.monotonic()
        with pytest.raises(StorageError, match=r"x: could not read in \d tries in \d+ s: .*[Tt]ime"):
            read_bytes(f"{s3_bucket}/x")
        assert time.monotonic() - start < 15


def test_closing_a_stream_after_an_error_publishes_what_there_was(s3_bucket: str) -> None:
    """The reason why `commit_bytes` uses no `with` on object stores. It may use one if this test fails."""
    file_system, path = open_uri(f"{s3_bucket}/partial.bin")
    with suppress(KeyboardInterrupt), file_system.open_output_stream(path) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert file_system.get_file_info(path).type == fs.FileType.File
