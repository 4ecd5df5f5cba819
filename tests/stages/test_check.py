"""What `check` finds in the annotated splits before anything is spent."""

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylabel.config import Config, SplitFraction, load_config
from raylabel.dataset.image_headers import Examined, examine_images
from raylabel.dataset.image_records import ImageRecord
from raylabel.dataset.pool import search
from raylabel.errors import InputError
from raylabel.report.console import format_check
from raylabel.run.folder import RunFolder
from raylabel.stages.check import check_run
from raylabel.stages.run import run_one, run_pipeline


@pytest.fixture
def own_set(generated: Path, tmp_path: Path) -> tuple[Config, Path]:
    """A copy of the generated set that a test may change, with its config. One split calibrates and validates."""
    folder = tmp_path / "set"
    shutil.copytree(generated, folder)
    config = load_config(folder / "config.yaml")
    student = replace(config.student, learn_from_calibration=False)
    teacher = replace(config.teacher, steps=20)
    return replace(config, teacher=teacher, student=student, out=str(tmp_path / "run")), folder


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every annotation of a file."""
    content = json.loads(path.read_text())
    for one in content["annotations"]:
        change(one)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["labelled", "val"])
def test_a_split_without_anything_to_learn_is_refused(name: str, own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    edit(folder / f"{name}.json", lambda one: one.update(iscrowd=1))
    with pytest.raises(InputError, match=r"nothing can be learnt or measured: \d+ of \d+ annotations are crowd") as no:
        check_run(config)
    assert str(no.value).startswith("data.labelled" if name == "labelled" else "data.calibration")
    assert "\n" not in str(no.value)


def test_what_hardly_anyone_wants_is_a_warning_with_numbers(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set

    def as_corners(one: dict[str, Any]) -> None:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]

    edit(folder / "labelled.json", as_corners)
    warnings = [line for line in format_check(check_run(config)).splitlines() if line.startswith("WARNING")]
    assert any("labelled: " in line and "have a box that is not their mask's" in line for line in warnings)
    assert all("labelled: " in line for line in warnings)


def test_a_sound_set_is_checked_without_a_warning(own_set: tuple[Config, Path]) -> None:
    assert check_run(own_set[0])["remarks"] == []


def test_images_of_another_size_are_named_and_counted(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    names = [one["file_name"] for one in json.loads((folder / "labelled.json").read_text())["images"]]
    assert len(names) == 12
    for name in names:
        with Image.open(folder / "images" / name) as image:
            half = image.resize((32, 16))
        half.save(folder / "images" / name)
    why = "another size: 32 x 16 pixels (width x height), annotated as 64 x 64"
    with pytest.raises(InputError) as refused:
        check_run(config)
    named = ", ".join(f"{folder / 'images' / name} ({why})" for name in names[:10])
    assert str(refused.value) == f"data.labelled: 12 of 12 images can't be used: {named} and 2 more"


def test_missing_images_are_named_and_counted(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    names = [one["file_name"] for one in json.loads((folder / "labelled.json").read_text())["images"]]
    for name in names[:2]:
        (folder / "images" / name).unlink()
    with pytest.raises(InputError) as refused:
        check_run(config)
    first, second = (folder / "images" / name for name in names[:2])
    missing = f"no such images, 2 of {len(names)} are missing"
    assert str(refused.value) == f"data.labelled: {first}, {second}: {missing}"


def test_damage_inside_a_file_needs_all_pixels(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    name = json.loads((folder / "labelled.json").read_text())["images"][0]["file_name"]
    path = folder / "images" / name
    Image.open(path).save(path, "PNG")
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(100) + content[300:])
    check_run(config)
    with pytest.raises(InputError, match=rf"data\.labelled: .*{name}: (corrupt|truncated)"):
        check_run(config, thorough=True)


def test_image_files_without_an_annotation_are_counted(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    config = replace(config, data=replace(config.data, calibration=str(folder / "calibration.json")))
    assert "unannotated" not in check_run(config)
    for name in ("new1.png", "new2.JPG", ".hidden.png", "notes.txt"):
        (folder / "images" / name).write_bytes(b"")
    text = format_check(check_run(config))
    said = f"images       2 image files in {folder}/images are in none of the annotation files\n"
    assert text.count(said) == 1
    assert "WARNING" not in text


def test_images_of_the_pools_truth_are_annotated(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    shutil.copytree(folder / "pool", folder / "images", dirs_exist_ok=True)
    data = replace(config.data, calibration=str(folder / "calibration.json"), pool=str(folder / "images"))
    assert "unannotated" not in check_run(replace(config, data=data))


def test_folders_spelled_in_two_ways_are_one(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    path = folder / "val.json"
    path.write_text(path.read_text().replace('"file_name": "', '"file_name": "./'))
    content = json.loads((folder / "calibration.json").read_text())
    num = len(content["images"])
    assert format_check(check_run(config)).count(f"images       {num} image files in {folder}/images are in none") == 1


@pytest.mark.usefixtures("without_ray")
def test_a_resumed_run_trusts_the_images_that_a_finished_stage_has_read(
    own_set: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = own_set
    run = RunFolder(config.out)
    run_one("prototypes", config, run)
    seen: list[int] = []

    def note(images: Sequence[ImageRecord], **options: Any) -> Examined:
        seen.append(len(images))
        return examine_images(images, **options)

    def images_read(**options: bool) -> list[int]:
        seen.clear()
        check_run(config, run, **options)
        return list(seen)

    monkeypatch.setattr("raylabel.run.image_headers.examine_images", note)
    num_of_splits = images_read()
    assert len(num_of_splits) == 3
    assert images_read(resumes=True) == num_of_splits[1:]
    edit(folder / "labelled.json", lambda one: one.update(note="another file"))
    assert images_read(resumes=True) == num_of_splits


def test_a_run_says_what_check_remarks(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"remarks": ["labelled: 3 of 9 annotations are odd"], "stages": {}, "rounds": {}}
    monkeypatch.setattr("raylabel.stages.check.check_run", lambda config, run, resumes: found)
    monkeypatch.setattr("raylabel.stages.run.run_one", lambda *args, **options: {})
    run_pipeline(config, tmp_path / "run")
    assert "WARNING: labelled: 3 of 9 annotations are odd\n" in capsys.readouterr().out


def rename(path: Path, names: dict[str, str]) -> None:
    """Give images of an annotation file other file names."""
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = names.get(image["file_name"], image["file_name"])
    path.write_text(json.dumps(content))


def names_in(path: Path) -> list[str]:
    return [one["file_name"] for one in json.loads(path.read_text())["images"]]


def test_splits_share_no_image_unnoticed(own_set: tuple[Config, Path]) -> None:
    """Two validation images are labelled images: one by its name, one by its content under another name."""
    config, folder = own_set
    shutil.copy(folder / "val.json", folder / "calibration.json")
    seen, mine = names_in(folder / "labelled.json"), names_in(folder / "val.json")
    shutil.copy(folder / "images" / seen[1], folder / "images" / "copy.jpg")
    rename(folder / "val.json", {mine[0]: seen[0], mine[1]: "copy.jpg"})
    config = replace(config, data=replace(config.data, calibration=str(folder / "calibration.json")))
    found = check_run(config)
    counts = {tuple(one["sets"]): (one["num_images"], one["is_harmful"]) for one in found["overlaps"]}
    assert counts == {("labelled", "validation"): (2, True), ("calibration", "validation"): (8, False)}
    [warning] = [line for line in format_check(found).splitlines() if line.startswith("WARNING")]
    assert "labelled and validation share 2 images, such as " in warning
    assert seen[0] in warning
    assert f"{seen[1]} = copy.jpg" in warning
    assert warning.endswith(". Models are measured on images that they learn from.")
    learning = replace(config, student=replace(config.student, learn_from_calibration=True))
    assert len(check_run(learning)["remarks"]) == 2


def test_one_photograph_under_two_names_is_a_warning(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    first, second = names_in(folder / "labelled.json")[:2]
    shutil.copy(folder / "images" / first, folder / "images" / second)
    [remark] = [one for one in check_run(config)["remarks"] if one.startswith("data.labelled")]
    assert remark == f"data.labelled: 1 image has the content of another one, such as {first} = {second}"


def test_a_folder_of_images_that_is_a_file_is_one_line(own_set: tuple[Config, Path]) -> None:
    config, folder = own_set
    data = replace(config.data, images=str(folder / "labelled.json"))
    with pytest.raises(InputError, match=r"labelled\.json is not a folder. data.images must be the folder"):
        check_run(replace(config, data=data))


def test_parts_of_one_file_can_share_a_content(own_set: tuple[Config, Path]) -> None:
    """All images of the file are one content, so every pair of parts shares it."""
    config, folder = own_set
    names = names_in(folder / "labelled.json")
    for name in names[1:]:
        shutil.copy(folder / "images" / names[0], folder / "images" / name)
    part = SplitFraction(fraction=0.3)
    config = replace(config, data=replace(config.data, calibration=part, validation=part))
    shared = {tuple(one["sets"]) for one in check_run(config)["overlaps"]}
    assert shared == {("labelled", "calibration"), ("labelled", "validation"), ("calibration", "validation")}


@pytest.mark.parametrize("kind", ["folder", "tar", "manifest", "parquet"])
@pytest.mark.parametrize("thorough", [False, True])
def test_the_pool_is_searched_for_images_of_the_splits(
    kind: str, thorough: bool, own_set: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = own_set
    pool = folder / "pool"
    for split, name in (("labelled", "a.jpg"), ("val", "b.jpg"), ("val", "c.jpg")):
        source = names_in(folder / f"{split}.json")[ord(name[0]) % 3]
        shutil.copy(folder / "images" / source, pool / name)
    names = sorted(path.name for path in pool.iterdir())
    uri = str(pool)
    if kind == "tar":
        uri = f"{pool}.tar"
        with tarfile.open(uri, "w") as tar:
            tar.add(pool, arcname=".")
    elif kind == "manifest":
        uri = str(pool / "list.txt")
        Path(uri).write_text("\n".join([*names, "missing.jpg", "../outside.jpg"]))
    elif kind == "parquet":
        uri = f"{pool}.parquet"
        pq.write_table(pa.table({"bytes": [(pool / name).read_bytes() for name in names], "image_id": names}), uri)
    config = replace(config, data=replace(config.data, pool=uri, pool_truth=None))
    found = check_run(config, thorough=thorough)
    shared = {one["sets"][0]: one["num_images"] for one in found["overlaps"] if one["sets"][1] == "pool"}
    text = format_check(found)
    assert found["remarks"] == []
    if kind == "parquet" and not thorough:
        assert shared == {}
        assert (
            f"0 of {len(names)} images may be in a split, by their size in bytes; 0 of them were compared, none are in "
            f"one; {len(names)} in" in text
        )
        return
    assert shared == {"labelled": 1, "calibration": 2, "validation": 2}
    assert "b.jpg" in text
    assert "overlap      validation and pool share 2 images" in text
    assert ". label leaves them out (data.validation_in_pool)." in text
    kept = check_run(replace(config, data=replace(config.data, validation_in_pool="keep")), thorough=thorough)
    assert [remark[:30] for remark in kept["remarks"]] == ["validation and pool share 2 im"]


@pytest.mark.parametrize("thorough", [False, True])
def test_only_a_sample_of_a_large_pool_is_read(
    thorough: bool, own_set: tuple[Config, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = own_set
    first = folder / "images" / names_in(folder / "val.json")[0]
    for number in range(20):
        shutil.copy(first, folder / "pool" / f"copy{number}.jpg")
    monkeypatch.setattr(search, "MAX_COMPARED", 7)
    read: list[str] = []
    monkeypatch.setattr(search, "read_content", lambda uri, *, max_pixels: read.append(uri) or Path(uri).read_bytes())
    found = check_run(config, thorough=thorough)
    [num] = [one["num_images"] for one in found["overlaps"] if one["sets"] == ["validation", "pool"]]
    assert len(read) == len(set(read))
    assert num == 20 if thorough else 0 < num <= len(read) == 7
    if not thorough:
        assert re.search(
            r"2\d of 52 images may be in a split, by their size in bytes; 7 of them were compared", format_check(found)
        )
