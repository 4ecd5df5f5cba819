"""Pools that are patterns or have options in their URI."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from raylabel.dataset.pool import listing, rows
from raylabel.errors import InputError
from raylabel.files import file_systems, file_tree, reading, stored_file, tables
from small_pools import add_member, ids, list_pool, png, values


@pytest.fixture
def shards(tmp_path):
    """Ten tars of one image each, and a file that is no tar."""
    folder = tmp_path / "sets" / "train"
    folder.mkdir(parents=True)
    for number in range(8, 18):
        with tarfile.open(folder / f"shard-{number:03d}.tar", "w") as tar:
            add_member(tar, "x.png", png(number))
    (folder / "shard-008.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("pattern", "numbers"),
    [
        ("sets/train/shard-{008..010}.tar", [8, 9, 10]),
        ("sets/train/shard-{008,017}.tar", [8, 17]),
        ("sets/train/shard-0{08..09,1{0..1}}.tar", None),
        ("sets/train/shard-01[0-2].tar", [10, 11, 12]),
        ("sets/train/shard-01[!0-6].tar", [17]),
        ("sets/train/*", list(range(8, 18))),
        ("sets/{train,val}/*9.tar", [9]),
        ("sets/**.tar", list(range(8, 18))),
        ("s*ts/train/shard-{008..010}.tar", [8, 9, 10]),
    ],
)
def test_patterns(shards, tmp_path, pattern, numbers):
    uri = str(tmp_path / pattern)
    if numbers is None:
        with pytest.raises(InputError, match=r"no such file|must name images"):
            list_pool(uri)
        return
    images = list_pool(uri)
    assert values(images) == numbers
    prefix = {"sets/train/": "", "sets/{tra": "train/", "sets/**.t": "train/", "s*ts/trai": "sets/train/"}
    start = next(start for key, start in prefix.items() if pattern.startswith(key))
    assert ids(images) == [f"{start}shard-{number:03d}.tar/x.png" for number in numbers]
    if pattern == "sets/train/*":
        assert images == list_pool(str(shards)), "ids are those of the folder"


def test_a_shard_that_braces_name_must_be_there(shards):
    with pytest.raises(InputError, match=r"shard-018.tar: no such file"):
        list_pool(str(shards / "shard-{008..018}.tar"))
    with pytest.raises(InputError, match="has no images"):
        list_pool(str(shards / "nothing-*.tar"))
    with pytest.raises(InputError, match=r"must name images, .* got shard-008.json"):
        list_pool(str(shards / "shard-{008..009}.json"))


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "set [1] {a,b}*"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.png").write_bytes(png(2))
    for pool in (folder, folder / "*", folder / "{a,b}.png", tmp_path / "set [[]1] *" / "**"):
        assert values(list_pool(str(pool))) == [1, 2]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Stand-in for `s3://`: a folder that needs options in its URI."""

    def open_uri(uri, **options):
        if not uri.startswith("s3://"):
            return file_systems.open_uri(uri, **options)
        base, given = file_systems.split_options(uri)
        assert given == OPTIONS
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), base.removeprefix("s3://")

    for module in (listing, rows, reading, tables, file_tree, stored_file):
        monkeypatch.setattr(module, "open_uri", open_uri)


OPTIONS = "?endpoint_override=127.0.0.1:9000"


@pytest.mark.usefixtures("store")
def test_options_of_a_uri_reach_its_images(shards, folder):
    pq.write_table(pa.table({"bytes": [png(3)]}), folder / "x.parquet")
    for pool, expected in (
        ("sets/train/shard-008.tar", [8]),
        ("sets/train/shard-{008..010}.tar", [8, 9, 10]),
        ("sets/train/*9.tar", [9]),
        ("sets/", list(range(8, 18))),
        ("pool/x.parquet", [3]),
    ):
        images = list_pool(f"s3://{pool}{OPTIONS}")
        assert all(image.uri.endswith(OPTIONS) for image in images)
        assert values(images) == expected
