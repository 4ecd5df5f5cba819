"""`rl.load_model`: every kind of image, the same predictions as the command, threads, and what is refused."""

import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import raylabel as rl
from raylabel.config import TileConfig, dump_config
from raylabel.dataset.images import read_image
from raylabel.deploy.predict import predict_files
from raylabel.run.folder import RunFolder, load_run_config


@pytest.fixture(scope="module")
def model(trained: RunFolder) -> Any:
    return rl.load_model(trained.path("student"), device="cpu")


@pytest.fixture(scope="module")
def paths(generated: Path) -> list[Path]:
    return sorted((generated / "pool").iterdir())


@pytest.fixture(scope="module")
def full(model: Any, paths: list[Path]) -> Path:
    """An image with predictions."""
    return max(paths, key=lambda path: len(model.predict(path)))


def same(one: Any, other: Any) -> None:
    assert one.masks == other.masks
    for name in ("class_indices", "raw_scores", "calibrated_scores", "boxes_xyxy"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_it_predicts_as_the_command(trained: RunFolder, model: Any, paths: list[Path], tmp_path: Path) -> None:
    predict_files(trained.uri, paths[0].parent, tmp_path / "out.json")
    expected = json.loads((tmp_path / "out.json").read_text())
    found = [one for path, each in zip(paths, model.predict(paths), strict=True) for one in each.to_coco(path.name)]
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one["segmentation"] == other["segmentation"]
        assert {**one, "segmentation": 0, "bbox": 0} == pytest.approx({**other, "segmentation": 0, "bbox": 0}, abs=1e-6)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-4)


def test_large_images_are_cut_as_the_command_does(trained: RunFolder, paths: list[Path], tmp_path: Path) -> None:
    """The tiles of an image are more than a batch."""
    run = tmp_path / "run"
    shutil.copytree(trained.uri, run)
    config = load_run_config(trained)
    label = replace(config.label, tile=TileConfig(size=24, overlap=0.5), batch_size=3)
    (run / "config.yaml").write_text(dump_config(replace(config, label=label)))
    predict_files(run, paths[0].parent, tmp_path / "out.json")
    found = [
        one
        for path, each in zip(paths, rl.load_model(run, device="cpu").predict(paths), strict=True)
        for one in each.to_coco(path.name)
    ]
    expected = json.loads((tmp_path / "out.json").read_text())
    assert [one["segmentation"] for one in found] == [one["segmentation"] for one in expected]
    whole = [one for path, each in zip(paths, rl.load_model(trained).predict(paths), strict=True) for one in each.masks]
    assert len(found) != len(whole)


def test_every_kind_of_image_gives_the_same(model: Any, full: Path) -> None:
    pixels_HW3 = read_image(str(full), max_pixels=10**6)
    expected = model.predict(str(full))
    assert len(expected) > 0
    with Image.open(full) as image:
        kinds = [full, full.as_uri(), full.read_bytes(), image, pixels_HW3, torch.tensor(pixels_HW3).permute(2, 0, 1)]
        kinds.append(kinds[-1] / 255)
        for kind in kinds:
            same(model.predict(kind), expected)
        for found in model.predict(kinds):
            same(found, expected)
    assert model.predict([]) == []


def test_images_are_turned_as_viewers_show_them(model: Any, full: Path, tmp_path: Path) -> None:
    """A stored image with an orientation is predicted as the displayed image, whatever kind it comes as."""
    pixels_HW3 = read_image(str(full), max_pixels=10**6)[:40]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels_HW3))).save(tmp_path / "turned.png", exif=exif)
    expected = model.predict(np.ascontiguousarray(pixels_HW3), min_score=0.0)
    with Image.open(tmp_path / "turned.png") as image:
        assert image.size == (40, 64)
        for kind in (tmp_path / "turned.png", (tmp_path / "turned.png").read_bytes(), image):
            found = model.predict(kind, min_score=0.0)
            assert found.image_size_hw == (40, 64)
            same(found, expected)
            assert found.draw().size == (64, 40)


def test_the_objects_of_an_image(trained: RunFolder, model: Any, full: Path) -> None:
    classes, selection = rl.Run(trained).classes, rl.Run(trained).config.selection
    found = model.predict(full)
    assert isinstance(found, rl.Instances)
    assert found.class_names == [classes.names[index] for index in found.class_indices]
    assert (found.calibrated_scores >= selection.min_score).all()
    assert [one["category_id"] for one in found.to_coco()] == classes.category_ids[found.class_indices].tolist()
    assert {one["image_id"] for one in found.to_coco("a")} == {"a"}
    assert [one["score"] for one in found.to_coco()] == found.calibrated_scores.tolist()
    assert [one["raw_score"] for one in found.to_coco()] == found.raw_scores.tolist()
    json.dumps(found.to_coco())
    best = found[found.calibrated_scores >= found.calibrated_scores.max()]
    assert best.class_names
    assert len(best.class_names) == len(best)
    assert len(model.predict(full, min_score=0.0)) >= len(found) >= len(model.predict(full, min_score=1.0)) == 0


def test_the_drawing_covers_the_masks_alone(model: Any, full: Path) -> None:
    """Without its text, which stands at the middle of the mask and may leave it."""
    from raylabel.masks.rle import decode_masks
    from raylabel.predictions.drawing import draw_masks

    found, pixels_HW3 = model.predict(full), read_image(str(full), max_pixels=10**6)
    masks_NHW = decode_masks(found.masks, found.image_size_hw)
    changed = (np.asarray(draw_masks(pixels_HW3, masks_NHW, [""] * len(found), font_pixels=1)) != pixels_HW3).any(
        axis=2
    )
    covered = masks_NHW.any(axis=0)
    assert changed[covered].mean() > 0.9
    assert (np.asarray(found.draw()) != pixels_HW3).any()
    assert np.asarray(model.predict(full, min_score=1.0).draw()).tolist() == pixels_HW3.tolist()


def test_threads_share_a_model(model: Any, paths: list[Path]) -> None:
    expected = model.predict(paths)
    with ThreadPoolExecutor(8) as threads:
        for found, one in zip(threads.map(model.predict, paths * 3), expected * 3, strict=True):
            same(found, one)


def test_raw_scores_and_the_teacher(trained: RunFolder, full: Path) -> None:
    raw = rl.load_model(trained.uri, raw=True, device="cpu")
    found = raw.predict(full)
    assert (found.calibrated_scores == found.raw_scores).all()
    assert all("raw_score" not in one for one in found.to_coco())
    teacher = rl.load_model(trained.uri, teacher=True)
    assert teacher.folder.uri == trained.path("teacher")
    same(teacher.predict(full), rl.load_model(trained.path("teacher")).predict(full))


@pytest.mark.parametrize("folder", ["student", "student/supervised", "teacher"])
def test_each_model_of_a_run_has_its_own_corrector(trained: RunFolder, folder: str) -> None:
    place = {"student": "student-calibration", "student/supervised": "baseline-calibration", "teacher": "."}[folder]
    expected = rl.Run(trained.path(place)).corrector.to_json()
    found = rl.load_model(trained.path(folder)).folder
    assert found.corrector is not None
    assert found.corrector.to_json() == expected
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("absent.jpg", r"absent\.jpg: missing"),
        (b"no image", "the image: not an image"),
        (np.zeros((4, 4), np.uint8), r"got ndarray \(4, 4\) of uint8"),
        (np.zeros((4, 4, 3)), r"got ndarray \(4, 4, 3\) of float64"),
        (torch.zeros(4, 4, 3), r"got Tensor \(4, 4, 3\) of torch\.float32"),
        (torch.full((3, 4, 4), 200.0), r"a tensor of floats must be in \[0, 1\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), r"uint8 or floats, got torch\.int32"),
        (7, "an image must be a path, .* got 7"),
    ],
)
def test_what_is_no_image_is_named(model: Any, image: Any, message: str) -> None:
    with pytest.raises(rl.InputError, match=message):
        model.predict(image)


def test_a_truncated_pillow_image_is_named(model: Any, full: Path) -> None:
    content = full.read_bytes()
    with Image.open(io.BytesIO(content[: len(content) // 2])) as image, pytest.raises(rl.InputError, match="corrupt"):
        model.predict(image)


def test_a_wrong_device_and_score_are_named(trained: RunFolder, model: Any, full: Path) -> None:
    with pytest.raises(rl.InputError, match="device: torch knows no abacus"):
        rl.load_model(trained.path("student"), device="abacus")
    with pytest.raises(rl.InputError, match=r"min_score must be in \[0, 1\], got -1"):
        model.predict(full, min_score=-1)


def test_it_loads_no_ray(trained: RunFolder, full: Path) -> None:
    script = (
        "import sys, raylabel as rl\nprint(len(rl.load_model(sys.argv[1]).predict(sys.argv[2])), 'ray' in sys.modules)"
    )
    argv = [sys.executable, "-c", script, trained.path("student"), str(full)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    num, has_ray = done.stdout.split()
    assert int(num) > 0
    assert has_ray == "False"
