"""What a listing leaves out is counted."""

import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel.dataset.pool.left_out import LeftOut, Reason
from raylabel.dataset.pool.listing import iter_pool
from raylabel.errors import InputError
from small_pools import add_member, ids, list_pool, png, values

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
