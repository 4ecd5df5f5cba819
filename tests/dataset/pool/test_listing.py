"""Every kind of pool lists the same images, and all of them can be read."""

import gzip
import io
import json
import os
import tarfile
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import fs

from raylabel.dataset.images import ImageError, ImageReader
from raylabel.dataset.pool.image import NOT_UTF8, OUTSIDE, PoolImage
from raylabel.dataset.pool.left_out import LeftOut, Reason
from raylabel.dataset.pool.listing import iter_pool
from raylabel.errors import InputError
from raylabel.files import file_systems, file_tree, storage, stored_file

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


def list_pool(uri):
    """Images of the pool, sorted as in the shard manifest."""
    return sorted(iter_pool(uri), key=lambda image: image.image_id)


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
    assert images[0].uri.startswith(f"{path}#a.png@"), "the reference has the place, so reading needs no index"
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
        PoolImage("s3://bucket/x.png", "s3://bucket/x.png", "not allowed: scheme s3"),
    ]
    (folder / "list.csv").write_text("image_id,uri\n7,sub/a.png\n,b.PNG\n")
    images = list_pool(str(folder / "list.csv"))
    assert ids(images) == ["7", "b.PNG"]
    assert values(images) == [2, 1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "uri,image_id\nsub/a.png,7\nb.PNG,\n"),
        ("list.jsonl", '{"uri": "sub/a.png", "image_id": 7}\n{"uri": "b.PNG"}\n'),
        ("list.txt", "sub/a.png\nb.PNG\n"),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_name(folder, name, text):
    """Spreadsheets write one."""
    for encoding in ("utf-8", "utf-8-sig"):
        (folder / name).write_text(text, encoding=encoding)
        assert values(list_pool(str(folder / name))) == ([1, 2] if name == "list.txt" else [2, 1])


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
        ("pool.zip", b"", "must be a folder, a pattern or one of"),
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


SAMPLES = ["a/1.jpg", "a/1.json", "a/1.mask.png", "a/2.left.jpg", "a/2.right.jpg", "b/1.mask.png", "./3.png"]


@pytest.fixture
def samples(tmp_path):
    """A tar of WebDataset samples."""
    path = tmp_path / "pool.tar"
    with tarfile.open(path, "w") as tar:
        for name in SAMPLES:
            add_member(tar, name, b"")
    return str(path)


def test_of_a_webdataset_sample_the_image_is_listed(samples):
    left_out = LeftOut()
    found = sorted(image.image_id for image in iter_pool(samples, tar_samples="webdataset", left_out=left_out))
    listed = ["./3.png", "a/1.jpg", "a/2.left.jpg", "a/2.right.jpg", "b/1.mask.png"]
    assert found == listed, "a sample without a plain image keeps all its images"
    assert left_out.text() == (
        "1 file of another kind left out (1 .json); 1 part of a WebDataset sample left out (1 .png)"
    )


def test_a_tar_holds_the_images_of_its_folder(samples, tmp_path):
    assert ids(list_pool(samples)) == sorted(name for name in SAMPLES if not name.endswith(".json"))
    (tmp_path / "pool").mkdir()
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        for name in (".hidden/a.png", "._b.png", "c/.d/e.png", "f.JFIF", "g.jpe", "h"):
            add_member(tar, name, b"")
        link = tarfile.TarInfo("i.png")
        link.type, link.linkname = tarfile.SYMTYPE, "f.JFIF"
        tar.addfile(link)
    with tarfile.open(tmp_path / "more.tar") as tar:
        tar.extractall(tmp_path / "pool")
    packed, unpacked = LeftOut(), LeftOut()
    found = [image.image_id for image in iter_pool(str(tmp_path / "more.tar"), left_out=packed)]
    assert found == ["f.JFIF", "g.jpe"]
    assert sorted(image.image_id for image in iter_pool(str(tmp_path / "pool"), left_out=unpacked)) == [*found, "i.png"]
    assert packed.text() == (
        "1 file of another kind left out (1 no suffix); 3 hidden files left out (3 .png); "
        "1 link in a tar left out (1 .png)"
    )


def test_suffixes_in_any_case_and_the_rest_is_counted(tmp_path):
    (tmp_path / "more").mkdir()
    for name in ("a.JPG", "b.jfif", "c.Jpe", "d", "e.zip", "f.ZIP", ".DS_Store", ".git", "g.\n", f"h.{'x' * 40}"):
        (tmp_path / "more" / name).write_bytes(png(1))
    with tarfile.open(tmp_path / "more" / "h.TAR", "w") as tar:
        add_member(tar, "x.png", png(2))
    pq.write_table(pa.table({"bytes": [png(3)]}), tmp_path / "more" / "i.Parquet")
    (tmp_path / "LIST.TXT").write_text("more/h.TAR#x.png\nmore/d\n")
    left_out = LeftOut()
    images = sorted(iter_pool(str(tmp_path / "more"), left_out=left_out), key=lambda image: image.image_id)
    assert ids(images) == ["a.JPG", "b.jfif", "c.Jpe", "h.TAR/x.png", "i.Parquet/000000000"]
    assert values(images) == [1, 1, 1, 2, 3]
    assert left_out.text() == (
        "5 files of other kinds left out (2 .zip, 2 other suffixes, 1 no suffix); 2 hidden files left out (2 no suffix)"
    )
    assert values(list_pool(str(tmp_path / "more" / "h.TAR"))) == [2]
    assert values(list_pool(str(tmp_path / "more" / "*.TAR"))) == [2]
    assert values(list_pool(str(tmp_path / "LIST.TXT"))) == [1, 2]


def test_a_pool_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"no images .*\. 1 file of another kind left out \(1 \.zip\)"):
        list_pool(str(tmp_path))


def test_counts_of_many_suffixes_take_little_memory():
    left_out = LeftOut()
    for number in range(5000):
        left_out.add(Reason.OTHER_KIND, f"a.{number}")
    assert len(left_out.counts) <= 1001
    assert left_out.text().startswith("5000 files of other kinds left out (4000 other suffixes, 1 .0, ")
    assert not LeftOut()


odd_names = st.text(st.sampled_from("a1.#%@+ []{},*犬🐕ö"), min_size=1, max_size=6).map(lambda stem: f"n{stem}.png")
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(names=st.lists(odd_names, min_size=1, max_size=4, unique=True), folder=odd_names)
def test_odd_names_are_names_in_every_kind_of_pool(tmp_path, names, folder):
    root = tmp_path / uuid4().hex / folder
    root.mkdir(parents=True)
    names = sorted(names)
    tars = [root / "x.tar", root.parent / f"{folder}.tar"]
    for path in tars:
        with tarfile.open(path, "w") as tar:
            for value, name in enumerate(names):
                add_member(tar, name, png(value))
    tars[0].rename(root.parent / "x.tar")
    for value, name in enumerate(names):
        (root / name).write_bytes(png(value))
    (root / "list.jsonl").write_text("".join(json.dumps({"uri": name}) + "\n" for name in names))
    pools = [root, root / "*.png", root / "list.jsonl", root.parent / "x.tar", tars[1], root.as_uri()]
    for pool in map(str, pools):
        images = list_pool(pool)
        assert ids(images) == names
        assert values(images) == list(range(len(names)))


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


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    (folder / "sub" / "up").symlink_to(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(folder / "sub")
    (tmp_path / "other" / "x.png").write_bytes(png(7))
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "gone.png").symlink_to(tmp_path / "absent.png")
    found = ids(list_pool(str(folder)))
    assert found == sorted([*NAMES, "gone.png", "linked/x.png", "linked/back/a.png", "linked/back/deep/c d.png"])


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Stand-in for `s3://`: a folder that needs options in its URI."""

    def open_uri(uri, **options):
        if not uri.startswith("s3://"):
            return file_systems.open_uri(uri, **options)
        base, given = file_systems.split_options(uri)
        assert given == OPTIONS
        return fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), base.removeprefix("s3://")

    for module in (storage, file_tree, stored_file):
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
