"""What `check` finds in the annotated splits before anything is spent."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raylabel.config import Config, load_config
from raylabel.dataset.annotated_set import ImageRecord
from raylabel.errors import InputError
from raylabel.report.console import format_check
from raylabel.run.folder import RunFolder
from raylabel.stages.check import check_run
from raylabel.stages.run import run_one, run_pipeline


@pytest.fixture
def own_set(generated: Path, tmp_path: Path) -> tuple[Config, Path]:
    """A copy of the generated set that a test may change, with its config."""
    folder = tmp_path / "set"
    shutil.copytree(generated, folder)
    config = load_config(folder / "config.yaml")
    return replace(config, out=str(tmp_path / "run")), folder


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
    names = [one["file_name"] for one in json.loads((folder / "val.json").read_text())["images"]][:3]
    for name in names:
        with Image.open(folder / "images" / name) as image:
            half = image.resize((32, 32))
        half.save(folder / "images" / name)
    with pytest.raises(
        InputError, match="another size: 32 x 32 pixels, annotated as 64 x 64, and 2 more can't be used"
    ):
        check_run(config)


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

    def note(images: Sequence[ImageRecord], **options: Any) -> list[Any]:
        seen.append(len(images))
        return []

    def images_read(**options: bool) -> list[int]:
        seen.clear()
        check_run(config, run, **options)
        return list(seen)

    monkeypatch.setattr("raylabel.stages.check.unusable_images", note)
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
