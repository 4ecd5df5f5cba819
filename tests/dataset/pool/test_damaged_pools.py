"""Damaged, missing and forbidden parts of a pool are refused or listed with a reason."""

import gzip
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel.dataset.images import ImageError, ImageReader
from raylabel.dataset.pool.image import NOT_UTF8, OUTSIDE
from raylabel.dataset.pool.listing import iter_pool
from raylabel.errors import InputError
from small_pools import add_member, list_pool, png


def test_damaged_images_are_listed_and_give_a_reason(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(png(1)[:45])
    (tmp_path / "c.png").write_bytes(b"text")
    pq.write_table(pa.table({"bytes": pa.array([None, b"x"], pa.binary())}), tmp_path / "d.parquet")
    reader = ImageReader(max_pixels=100)
    reasons = []
    for image in list_pool(str(tmp_path)):
        with pytest.raises(ImageError) as caught:
            reader.read(image.uri)
        reasons.append(str(caught.value))
    assert reasons == ["zero bytes", "truncated", "not an image", "zero bytes", "not an image"]


def test_missing_members(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_member(tar, "x.png", png(1))
    pq.write_table(pa.table({"bytes": [png(1)]}), tmp_path / "a.parquet")
    reader = ImageReader(max_pixels=100)
    for reference in ("a.tar#y.png", "b.tar#x.png", "a.parquet#1", "a.parquet#-1", "a.parquet#x", "b.parquet#0"):
        with pytest.raises(ImageError, match="missing"):
            reader.read(str(tmp_path / reference))
    (tmp_path / "c.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(ImageError, match="container unreadable"):
        reader.read(str(tmp_path / "c.tar#x.png"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", b"", "has no images"),
        ("list.txt", b"\xff\xfe", "not UTF-8"),
        ("list.jsonl", b'{"uri": "a"}\n{"id": 3}\n', "line 2: uri must be"),
        ("list.jsonl", b"a.png\n", "line 1: not JSON"),
        ("list.jsonl", b"[1]\n", "line 1: must be an object"),
        ("list.jsonl", b'{"uri": "a"}\n' + b"[" * 100_000 + b"\n", "line 2: not usable JSON: .* nested too deeply"),
        ("list.jsonl", b'{"uri": "a", "image_id": ' + b"9" * 5000 + b"}\n", "line 1: not JSON: .*4300 digits"),
        ("list.jsonl", b'{"uri": "a", "uri": "b"}\n', "line 1: not JSON: the key 'uri' is given twice"),
        ("list.jsonl", b'{"uri": "a"', "line 1: not JSON"),
        ("list.jsonl", b'{"uri": NaN}', "line 1: uri must be a path or URI, got nan"),
        ("list.jsonl", b'{"uri": "a", "image_id": Infinity}', "line 1: image_id must be .* got inf"),
        ("list.jsonl", b'{"uri": [[[[[[1]]]]]]}', "line 1: uri must be"),
        ("list.jsonl", '{"uri": "a"}'.encode("utf-16"), "not UTF-8"),
        ("list.jsonl", gzip.compress(b'{"uri": "a"}'), "not UTF-8"),
        ("list.jsonl", b'{"uri": "a", "image_id": 1.5}\n', "line 1: image_id must be"),
        ("list.csv", b"a.png\n", "must name a column uri"),
        ("list.csv", b"uri,image_id\n,3\n", "line 2: uri must be"),
        ("pool.parquet", b"no parquet", "not readable as Parquet"),
        ("pool.tar", b"no tar" * 200, "not readable as an uncompressed tar"),
        ("pool.zip", b"", "must be a folder, a pattern, manifest.json or one of"),
        ("pool.tar.gz", b"", "compressed tar can't be read"),
        ("pool.tgz", b"", "compressed tar can't be read"),
    ],
)
def test_bad_pools(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list_pool(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_without_a_usable_column(tmp_path):
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="must have a column uri or bytes, got url"):
        list_pool(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"uri": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 1: uri must be"):
        list_pool(str(tmp_path / "a.parquet"))


def test_missing_and_empty_pools(tmp_path):
    with pytest.raises(InputError, match="no such pool"):
        list_pool(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="the pool has no images"):
        list_pool(str(tmp_path))


def test_a_compressed_tar_in_a_folder_is_not_passed_over(folder):
    (folder / "sub" / "more.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"sub/more.tar.gz: a compressed tar"):
        list_pool(str(folder))


def refusals(uri):
    return {image.image_id: image.refusal for image in iter_pool(str(uri))}


def test_what_leads_out_of_the_pool_is_listed_and_refused(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    lines = ["../secret.png", "sub/../../secret.png", "sub/../a.png", "../x.tar#a.png", "x.tar#../a.png", "a..png"]
    (folder / "list.txt").write_text("\n".join(lines))
    expected = dict.fromkeys(lines, OUTSIDE) | {"sub/../a.png": None, "a..png": None}
    assert refusals(folder / "list.txt") == expected
    pq.write_table(pa.table({"uri": lines}), folder / "list.parquet")
    assert refusals(folder / "list.parquet") == expected
    with tarfile.open(folder / "x.tar", "w") as tar:
        for name in ("../a.png", "/etc/a.png", "b/../c.png"):
            add_member(tar, name, png(1))
    assert refusals(folder / "x.tar") == {"../a.png": OUTSIDE, "/etc/a.png": OUTSIDE, "b/../c.png": None}
    absolute = str(tmp_path / "secret.png")
    (folder / "list.txt").write_text(absolute)
    assert refusals(folder / "list.txt") == {absolute: OUTSIDE}


def test_names_that_are_not_utf8_are_listed_and_refused(tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "good.png").write_bytes(png(1))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(png(2))
    assert refusals(folder) == {"good.png": None, "caf\\udce9.png": NOT_UTF8}
    with tarfile.open(tmp_path / "pool.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add_member(tar, os.fsdecode(b"caf\xe9.png"), png(2))
    assert [image.num_bytes for image in iter_pool(str(tmp_path / "pool.tar"))] == [len(png(2))]
    assert refusals(tmp_path / "pool.tar") == {"caf\\udce9.png": NOT_UTF8}
    (tmp_path / "pool.jsonl").write_text('{"uri": "a\\ud800.png"}\n{"uri": "s3://b/\\ud800.png", "image_id": 1}\n')
    assert refusals(tmp_path / "pool.jsonl") == {"a\\ud800.png": NOT_UTF8, "1": NOT_UTF8}
    for image in [*iter_pool(str(folder)), *iter_pool(str(tmp_path / "pool.tar"))]:
        assert f"{image.image_id}{image.uri}".encode()
