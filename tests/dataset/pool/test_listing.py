"""Every kind of pool lists the same images, and all of them can be read."""

import json
import tarfile
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylabel.dataset.pool.image import PoolImage
from small_pools import NAMES, add_member, ids, list_pool, png, values


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


def test_links_are_followed_but_not_in_circles(folder, tmp_path):
    (folder / "sub" / "up").symlink_to(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "back").symlink_to(folder / "sub")
    (tmp_path / "other" / "x.png").write_bytes(png(7))
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "gone.png").symlink_to(tmp_path / "absent.png")
    found = ids(list_pool(str(folder)))
    assert found == sorted([*NAMES, "gone.png", "linked/x.png", "linked/back/a.png", "linked/back/deep/c d.png"])


@pytest.mark.parametrize("name", ["a.jpg", "b [1].PNG", "c{1}.tif"])
def test_one_image(tmp_path, name):
    (tmp_path / name).write_bytes(png(1))
    assert list_pool(str(tmp_path / name)) == [PoolImage(name, str(tmp_path / name))]
