"""Images in tar and Parquet files are read by many threads, without an index, and with little memory."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylabel.dataset import containers
from raylabel.dataset.containers import ContainerReader, split_reference, tar_members
from raylabel.dataset.image_errors import ImageError
from raylabel.dataset.images import ImageReader
from raylabel.files import stored_file
from raylabel.files.reading import TooLargeError

MAX_BYTES = 10**6


def content_of(index: int) -> bytes:
    return f"{index:06d}".encode() * (1 + index % 50)


def write_tar(path: Path, num: int) -> None:
    with tarfile.open(path, "w") as tar:
        for index in range(num):
            member = tarfile.TarInfo(f"deep/{index}.jpg" if index else "a@1+2.jpg")
            member.size = len(content_of(index))
            tar.addfile(member, io.BytesIO(content_of(index)))


@pytest.fixture(params=["tar", "parquet"])
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[str]]:
    """A container with 500 images, and their keys."""
    path = tmp_path / f"pool.{request.param}"
    if request.param == "tar":
        write_tar(path, 500)
        keys = [split_reference(member.reference(str(path)))[1] for member in tar_members(str(path))]
    else:
        pq.write_table(pa.table({"bytes": [content_of(index) for index in range(500)]}), path, row_group_size=210)
        keys = [str(row) for row in range(500)]
    return str(path), keys


def test_many_threads_read_any_member(packed: tuple[str, list[str]]) -> None:
    uri, keys = packed
    reader, order = ContainerReader(), np.random.default_rng(0).permutation(len(keys))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda index: reader.read(uri, keys[index], max_bytes=MAX_BYTES), order))
    assert found == [content_of(index) for index in order]


def test_a_container_is_opened_once(packed: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    uri, keys = packed
    opened = []
    real = stored_file.StoredFile.__init__
    monkeypatch.setattr(stored_file.StoredFile, "__init__", lambda self, uri: (opened.append(uri), real(self, uri))[1])
    reader = ContainerReader()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: reader.read(uri, key, max_bytes=MAX_BYTES), keys))
    assert opened == [uri]


def test_few_containers_stay_open(tmp_path: Path) -> None:
    reader = ContainerReader()
    for index in range(2 * containers.NUM_KEPT_OPEN):
        write_tar(tmp_path / f"{index}.tar", 2)
        assert reader.read(str(tmp_path / f"{index}.tar"), "deep/1.jpg", max_bytes=MAX_BYTES) == content_of(1)
    assert len(reader._open) == containers.NUM_KEPT_OPEN


def test_rows_in_order_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"bytes": [content_of(index) for index in range(2000)]}), path)
    begun = []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda self, *a, **k: (begun.append(k), real(self, *a, **k))[1])
    reader = ContainerReader()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: reader.read(str(path), str(row), max_bytes=MAX_BYTES), range(2000)))
    assert found == [content_of(index) for index in range(2000)]
    assert len(begun) < 10, "threads that are slightly ahead do not restart the row group"


def test_names_without_a_place_are_looked_up(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool.tar", 5)
    assert ContainerReader().read(str(tmp_path / "pool.tar"), "deep/3.jpg", max_bytes=MAX_BYTES) == content_of(3)


def test_names_with_a_hash_are_names(tmp_path: Path) -> None:
    """`x.tar#1.jpg` may be a member of x.tar, a file, or a file in a folder of such a name."""
    write_tar(tmp_path / "x.tar", 2)
    write_tar(tmp_path / "a.parquet#x.TAR", 2)
    (tmp_path / "y.tar").mkdir()
    names = ["x.tar#1.jpg", "absent.tar#1.jpg", "y.tar#1.jpg", "x.tar#z/1.jpg", "a#b %.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    reader = ImageReader(max_pixels=100)
    assert [reader.read_bytes(str(tmp_path / name)).decode() for name in names] == names
    for packed in ("x.tar", "a.parquet#x.TAR"):
        assert reader.read_bytes(str(tmp_path / f"{packed}#deep/1.jpg")) == content_of(1)
        for member in tar_members(str(tmp_path / packed)):
            assert reader.read_bytes(member.reference(str(tmp_path / packed)))
    with pytest.raises(ImageError, match=r"^missing$"):
        reader.read_bytes(str(tmp_path / "x.tar#2.jpg"))


def test_what_is_not_there(packed: tuple[str, list[str]], tmp_path: Path) -> None:
    uri, keys = packed
    reader = ContainerReader()
    for key in ("absent.jpg", "500", "-1", "\u0661"):
        with pytest.raises(ImageError, match=r"^missing$"):
            reader.read(uri, key, max_bytes=MAX_BYTES)
    with pytest.raises(TooLargeError):
        reader.read(uri, keys[49], max_bytes=10)
    with pytest.raises(FileNotFoundError):
        reader.read(str(tmp_path / "absent.tar"), "x", max_bytes=MAX_BYTES)


def test_damaged_containers_have_their_reason(packed: tuple[str, list[str]]) -> None:
    uri, _ = packed
    path = Path(uri)
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for start in (0, len(sound) // 2, len(sound) - 4000):
        damaged = bytearray(sound)
        damaged[start : start + 4000] = rng.bytes(4000)
        path.write_bytes(damaged)
        reader = ContainerReader()
        for key in ("deep/400.jpg", "250"):
            reason = "ok"
            try:
                reader.read(uri, key, max_bytes=MAX_BYTES)
            except ImageError as error:
                reason = str(error).split(":")[0]
            assert reason in ("ok", "container unreadable", "missing")


def test_a_small_parquet_of_large_images(tmp_path: Path) -> None:
    """One image repeated in every row is read once. A row group of images over the limit is refused unread."""
    path = tmp_path / "pool.parquet"
    pq.write_table(pa.table({"bytes": [bytes(2**22)] * 64}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    reader = ContainerReader()
    assert len(reader.read(str(path), "5", max_bytes=2**22)) == 2**22
    assert pa.total_allocated_bytes() < 2**27
    with pytest.raises(TooLargeError):
        reader.read(str(path), "6", max_bytes=2**22 - 1)
    pq.write_table(pa.table({"bytes": [bytes(2**24)]}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(TooLargeError, match=r"1677\d+ bytes in 1 rows"):
        ContainerReader().read(str(path), "0", max_bytes=2**20)
