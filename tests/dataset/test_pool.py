"""Every kind of pool lists the same images, which can all be read."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylabel.dataset.images import ImageError, ImageReader
from raylabel.dataset.pool import PoolImage, list_pool, pool_shards
from raylabel.errors import InputError

NAMES = ["a.png", "b.PNG", "sub/a.png", "sub/deep/c d.png"]


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def add_member(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pool"
    for value, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(value))
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(png(9))
    (root / ".cache").mkdir()
    (root / ".cache" / "a.png").write_bytes(png(9))
    return root


def values(images):
    reader = ImageReader(max_pixels=100)
    return [int(reader.read(image.uri)[0, 0, 0]) for image in images]


def ids(images):
    return [image.image_id for image in images]


def test_folder(folder, monkeypatch):
    images = list_pool(str(folder))
    assert ids(images) == NAMES
    assert values(images) == [0, 1, 2, 3]
    monkeypatch.chdir(folder.parent)
    for same in ("pool", "pool/", folder.as_uri(), folder.as_uri() + "/"):
        assert list_pool(same) == images


def test_tar(folder, tmp_path):
    path = tmp_path / "pool.tar"
    with tarfile.open(path, "w") as tar:
        for value, name in enumerate(reversed(NAMES)):
            add_member(tar, name, png(3 - value))
        add_member(tar, "labels.json", b"{}")
        add_member(tar, "sub/._a.png", b"what a Mac adds")
    images = list_pool(str(path))
    assert ids(images) == NAMES
    assert images[0].uri == f"{path}#a.png"
    assert values(images) == [0, 1, 2, 3]


@pytest.mark.parametrize("row_group_size", [1, 3, 10])
def test_parquet_with_bytes(tmp_path, row_group_size):
    path = tmp_path / "pool.parquet"
    table = pa.table({"bytes": [png(value) for value in range(7)], "other": list("abcdefg")})
    pq.write_table(table, path, row_group_size=row_group_size)
    images = list_pool(str(path))
    assert ids(images) == [f"{row:09d}" for row in range(7)]
    assert values(images) == list(range(7))
    assert values(images[::-1]) == list(range(7))[::-1]
    pq.write_table(table.append_column("image_id", [list("gfedcba")]), path)
    images = list_pool(str(path))
    assert ids(images) == list("abcdefg")
    assert values(images) == list(range(7))[::-1]


def test_parquet_with_uris(folder):
    path = folder / "pool.parquet"
    pq.write_table(pa.table({"uri": NAMES, "image_id": [4, 3, 2, 1]}), path)
    images = list_pool(str(path))
    assert ids(images) == ["1", "2", "3", "4"]
    assert values(images) == [3, 2, 1, 0]


def test_manifests(folder):
    absolute = str(folder / "b.PNG")
    (folder / "list.txt").write_text(f"sub/a.png\n\n{absolute}\r\n")
    assert list_pool(str(folder / "list.txt")) == [
        PoolImage(absolute, absolute),
        PoolImage("sub/a.png", str(folder / "sub/a.png")),
    ]
    rows = [{"uri": "sub/a.png", "image_id": 7}, {"uri": "s3://bucket/x.png", "extra": None}]
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert list_pool(str(folder / "list.jsonl")) == [
        PoolImage("7", str(folder / "sub/a.png")),
        PoolImage("s3://bucket/x.png", "s3://bucket/x.png"),
    ]
    (folder / "list.csv").write_text("image_id,uri\n7,sub/a.png\n,b.PNG\n")
    images = list_pool(str(folder / "list.csv"))
    assert ids(images) == ["7", "b.PNG"]
    assert values(images) == [2, 1]


def test_manifest_may_name_members(folder, tmp_path):
    with tarfile.open(folder / "more.tar", "w") as tar:
        add_member(tar, "x.png", png(5))
    (tmp_path / "list.txt").write_text("pool/more.tar#x.png\npool/a.png\n")
    assert values(list_pool(str(tmp_path / "list.txt"))) == [0, 5]


def test_folder_of_packed_files(tmp_path):
    for name, value in (("0.tar", 1), ("1.tar", 2)):
        with tarfile.open(tmp_path / name, "w") as tar:
            add_member(tar, "x.png", png(value))
    pq.write_table(pa.table({"bytes": [png(3)]}), tmp_path / "2.parquet")
    images = list_pool(str(tmp_path))
    assert ids(images) == ["0.tar/x.png", "1.tar/x.png", "2.parquet/000000000"]
    assert values(images) == [1, 2, 3]


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
        ("list.txt", b"a.png\na.png\n", "image id 'a.png' is given twice"),
        ("list.txt", b"\xff\xfe", "not UTF-8"),
        ("list.jsonl", b'{"uri": "a"}\n{"id": 3}\n', "line 2: uri must be"),
        ("list.jsonl", b"a.png\n", "line 1: not JSON"),
        ("list.jsonl", b"[1]\n", "line 1: must be an object"),
        ("list.jsonl", b'{"uri": "a", "image_id": 1.5}\n', "line 1: image_id must be"),
        ("list.csv", b"a.png\n", "must name a column uri"),
        ("list.csv", b"uri,image_id\n,3\n", "line 2: uri must be"),
        ("pool.parquet", b"no parquet", "not readable as Parquet"),
        ("pool.tar", b"no tar" * 200, "not readable as an uncompressed tar"),
        ("pool.zip", b"", "must be a folder or one of"),
    ],
)
def test_bad_pools(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list_pool(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_parquet_without_a_usable_column(tmp_path):
    pq.write_table(pa.table({"url": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="must have a column uri or bytes, has url"):
        list_pool(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"uri": ["a", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="row 1: uri must be"):
        list_pool(str(tmp_path / "a.parquet"))


def test_missing_and_empty_pools(tmp_path):
    with pytest.raises(InputError, match="no such pool"):
        list_pool(str(tmp_path / "absent"))
    with pytest.raises(InputError, match="the pool has no images"):
        list_pool(str(tmp_path))


def test_shards():
    images = [PoolImage(str(index), "") for index in range(7)]
    shards = pool_shards(images, 3)
    assert [shard.shard_id for shard in shards] == [0, 1, 2]
    assert [len(shard.images) for shard in shards] == [3, 3, 1]
    assert sum((shard.images for shard in shards), ()) == tuple(images)
    assert pool_shards([], 3) == []


def test_shards_are_stable():
    """Shards follow from the sorted pool alone, which is what makes a run resumable."""
    images = [PoolImage(f"{index:03d}", "") for index in np.random.default_rng(0).permutation(50)]
    ordered = sorted(images, key=lambda image: image.image_id)
    assert pool_shards(ordered, 8)[2].images[0].image_id == "016"
