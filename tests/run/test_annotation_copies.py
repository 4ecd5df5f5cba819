"""RUN/data: an annotation file is read once; a copy that is damaged or of another file is made again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raylabel.config import Config
from raylabel.dataset.image_headers import Orientation
from raylabel.dataset.object_rows import DamagedCopyError
from raylabel.files.digests import file_digest
from raylabel.files.stored_file import StoredFile
from raylabel.run import annotation_copies
from raylabel.run.annotation_copies import content_digest, open_annotations
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder

READERS = ("write_copy", "file_digest", "find_orientation")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "run"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that read files of the data."""
    seen: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        function = getattr(annotation_copies, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return function(*args, **kwargs)

        return call

    for name in READERS:
        monkeypatch.setattr(annotation_copies, name, noted(name))
    # Files of a test are younger than what is trusted elsewhere.
    monkeypatch.setattr(annotation_copies, "SURE_AFTER_NS", -1)
    return seen


def copy_of(run: RunFolder, name: str) -> Path:
    """Return the one file of this name in the run's copies."""
    [path] = Path(run.path("data")).glob(f"*/{name}")
    return path


def same(config: Config, run: RunFolder | None) -> bool:
    found, plain = RunData(config, run), RunData(config)
    return all(
        list(getattr(found, name).images) == list(getattr(plain, name).images)
        and list(getattr(found, name).annotations) == list(getattr(plain, name).annotations)
        and getattr(found, name).categories == getattr(plain, name).categories
        for name in ("labelled", "calibration", "student_labelled", "pool_truth")
    )


def test_a_second_process_reads_nothing_again(config: Config, run: RunFolder, calls: list[str]) -> None:
    assert same(config, run)
    first = RunData(config, run).labelled_digest
    calls.clear()
    data = RunData(config, run)
    _ = data.labelled, data.calibration, data.validation, data.pool_truth
    assert data.labelled_digest == first == RunData(config).labelled_digest
    assert calls == ["file_digest"], "by the data without a run"
    assert same(config, run)


def test_a_nested_run_shares_the_copies(config: Config, run: RunFolder, calls: list[str]) -> None:
    _ = RunData(config, run).labelled
    calls.clear()
    _ = RunData(config, run.nested("round-2").nested("student-calibration")).labelled
    assert calls == []
    assert not Path(run.path("round-2")).exists()


def damage_by_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def damage_by_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.arrow", damage_by_a_byte),
        ("images.arrow", damage_by_length),
        ("images.arrow", Path.unlink),
        ("objects.arrow", damage_by_length),
        ("objects.arrow", Path.unlink),
        ("set.json", damage_by_length),
        ("set.json", Path.unlink),
        ("set.json", lambda path: path.write_text("{}")),
    ],
)
def test_a_damaged_copy_is_made_again(
    config: Config,
    run: RunFolder,
    calls: list[str],
    name: str,
    damage: Callable[[Path], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = replace(config, data=replace(config.data, calibration=config.data.labelled, pool_truth=None))
    _ = RunData(settings, run).labelled
    damage(copy_of(run, name))
    calls.clear()
    found = RunData(settings, run).labelled
    assert "write_copy" in calls
    assert list(found.annotations) == list(RunData(settings).labelled.annotations)
    assert capsys.readouterr().out.count("is read again\n") == (name != "set.json" or damage is not Path.unlink)


def test_a_damaged_row_is_one_line_and_is_made_again_at_the_next_start(config: Config, run: RunFolder) -> None:
    before = list(RunData(config, run).labelled.annotations)
    path = copy_of(run, "objects.arrow")
    content = path.read_bytes()
    place = content.index(b'"segmentation"')
    path.write_bytes(content[:place] + b'"SEGMENTATION"' + content[place + 14 :])
    with pytest.raises(DamagedCopyError, match=r"objects.arrow: row \d+ is damaged. The next start reads"):
        list(RunData(config, run).labelled.annotations)
    assert list(RunData(config, run).labelled.annotations) == before


def test_another_content_of_the_same_size_is_read(config: Config, run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    text = Path(config.data.labelled).read_text()
    path.write_text(text)
    first = open_annotations(run, str(path), None)
    name = first.class_names[0]
    path.write_text(text.replace(f'"{name}"', f'"{name[::-1]}"'))
    assert open_annotations(run, str(path), None).class_names[0] == name[::-1]
    assert content_digest(run, str(path)) == file_digest(str(path))


def test_folders_of_images_decide_names_each_time(run: RunFolder, tmp_path: Path) -> None:
    """LVIS v1 names images by URLs, and the last folder of a URL counts if it exists below the images."""
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/a.jpg", "height": 8, "width": 8}
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    root = tmp_path / "images"
    assert open_annotations(run, str(path), str(root)).images.file_names() == ["a.jpg"]
    (root / "val2017").mkdir(parents=True)
    assert open_annotations(run, str(path), str(root)).images.file_names() == ["val2017/a.jpg"]


@pytest.mark.parametrize("is_sure", [True, False])
def test_only_an_orientation_that_is_sure_is_kept(
    config: Config, run: RunFolder, monkeypatch: pytest.MonkeyPatch, is_sure: bool
) -> None:
    monkeypatch.setattr(annotation_copies, "find_orientation", lambda *_, **__: Orientation(False, is_sure))
    assert not RunData(config, run).labelled.images[0].source.as_stored
    monkeypatch.setattr(annotation_copies, "find_orientation", lambda *_, **__: Orientation(True, True))
    assert RunData(config, run).labelled.images[0].source.as_stored != is_sure


def test_a_run_in_a_store_is_read_by_row(
    config: Config, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image costs a read of its batch of 32 images. No file of objects is read whole."""
    stored = RunFolder(f"memory://{tmp_path.name}/run")
    assert same(config, stored)
    images = [{"id": row, "file_name": f"{row}.jpg", "height": 64, "width": 64} for row in range(640)]
    outline = [[number % 60 for number in range(600)]]
    annotations = [{"id": row, "image_id": row, "category_id": 1, "segmentation": outline} for row in range(640)]
    path = tmp_path / "set.json"
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(content))
    open_annotations(stored, str(path), None)
    num_read: list[int] = []
    read_at = StoredFile.read_at

    def counted(file: StoredFile, num_bytes: int, offset: int) -> bytes:
        if file._uri.endswith("objects.arrow"):
            num_read.append(num_bytes)
        return read_at(file, num_bytes, offset)

    monkeypatch.setattr(StoredFile, "read_at", counted)
    monkeypatch.setattr(annotation_copies, "write_copy", None)
    found = open_annotations(stored, str(path), None)
    text = json.dumps(annotations[0])
    assert [one["id"] for row in (0, 31, 320, 639) for one in found.annotations[row]] == [0, 31, 320, 639]
    assert 96 * len(text) < sum(num_read) < 105 * len(text)
