"""An image has one orientation: that of its annotations or its truth, from the splits to the pool's labels."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask

from colours import COLOURS, ColourFinder, Photograph, fits, write_set
from prepared import prepared_run
from raylabel.config import (
    Config,
    DataConfig,
    LabelConfig,
    LabelledPortion,
    SelectionConfig,
    SplitFraction,
    StudentConfig,
    TeacherConfig,
    config_dict,
)
from raylabel.dataset.annotations import read_annotations
from raylabel.dataset.image_source import read_source
from raylabel.errors import InputError
from raylabel.evaluation.pool_quality import measure_pool
from raylabel.export import export_labels
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.masks.rle import Rle, encode_masks
from raylabel.models.saved import save_segmenter
from raylabel.report.console import format_check
from raylabel.report.gallery import draw
from raylabel.run.data import RunData, truth_match
from raylabel.run.folder import RunFolder
from raylabel.run.labels.kept import KeptImage, kept_images
from raylabel.run.labels.shards import committed_shards
from raylabel.stages import label
from raylabel.stages.check import check_run
from raylabel.stages.training_jobs import pool_stream, student_job
from raylabel.training.augment.views import no_augmentation
from stored_labels import label_rows

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "pseudo_labels_dataset.py"))
GROUPS = np.array(["f", "f"])
FINDER = "colours:ColourFinder"
PERFECT = {"precision": 1.0, "recall": 1.0}


def photographs(prefix: str, *, as_stored: bool, copies: int = 1) -> list[Photograph]:
    """Return images with every EXIF orientation, square and not."""
    return [
        Photograph(f"{prefix}{copy}-{orientation}-{is_square}.png", orientation, is_square, as_stored)
        for copy in range(copies)
        for orientation in range(1, 9)
        for is_square in (False, True)
    ]


def config_of(data: DataConfig) -> Config:
    return Config(
        data=data,
        teacher=TeacherConfig(model=FINDER, num_workers=1),
        student=StudentConfig(model=FINDER, num_workers=1),
        label=LabelConfig(shard_size=8, num_workers=1),
        selection=SelectionConfig(min_score=0.1),
    )


def with_fraction(folder: Path, *, as_stored: bool) -> Config:
    """The pool is half of a labelled file."""
    write_set(folder, "all.json", photographs("a", as_stored=as_stored, copies=5))
    part = SplitFraction(fraction=0.15)
    return config_of(
        DataConfig(
            labelled=str(folder / "all.json"),
            images=str(folder / "images"),
            calibration=part,
            validation=part,
            pool=SplitFraction(fraction=0.5),
            validation_in_pool="keep",
        )
    )


def with_portion(folder: Path, *, as_stored: bool) -> Config:
    """The pool is what a portion of a labelled file leaves."""
    config = with_fraction(folder, as_stored=as_stored)
    portion = LabelledPortion(file=str(folder / "all.json"), fraction=0.4)
    return replace(config, data=replace(config.data, labelled=portion, pool=None))


def with_truth(folder: Path, *, as_stored: bool) -> Config:
    """The pool is a folder whose truth is known. The labelled file annotates the other orientation."""
    write_set(folder, "labelled.json", photographs("l", as_stored=not as_stored))
    write_set(folder / "pool", "truth.json", photographs("p", as_stored=as_stored))
    return config_of(
        DataConfig(
            labelled=str(folder / "labelled.json"),
            images=str(folder / "images"),
            calibration=str(folder / "labelled.json"),
            validation=str(folder / "labelled.json"),
            pool=str(folder / "pool" / "images"),
            pool_truth=str(folder / "pool" / "truth.json"),
            validation_in_pool="keep",
        )
    )


def labelled_by_colour(config: Config, folder: Path) -> RunFolder:
    """Label the pool with a teacher that makes no mistake."""
    run = prepared_run(config, folder)
    save_segmenter(ColourFinder(num_classes=len(COLOURS)), run.path("teacher"), {"model": FINDER})
    label.run_stage(config, run)
    return run


def measured(config: Config, run: RunFolder) -> dict[str, Any]:
    match = truth_match(RunData(config))
    found = measure_pool(
        run, match, calibration=config.calibration, selection=config.selection, max_pixels=config.data.max_image_pixels
    )
    assert found is not None
    return found


@pytest.mark.parametrize("as_stored", [True, False])
@pytest.mark.parametrize("configure", [with_fraction, with_portion, with_truth])
@pytest.mark.usefixtures("without_ray")
def test_a_perfect_teacher_is_right_about_every_image(configure: Any, as_stored: bool, tmp_path: Path) -> None:
    config = configure(tmp_path, as_stored=as_stored)
    run = labelled_by_colour(config, tmp_path / "run")
    found = measured(config, run)
    assert found["num_images"] == len(label_rows(run)) >= 16
    assert {name: found["selected"][name] for name in PERFECT} == PERFECT
    assert found["num_other_size"] == found["num_other_orientation"] == 0

    # The student and the gallery read the pixels that the teacher saw.
    images = [one for uri in committed_shards(run).values() for one in kept_images(uri, config.selection, GROUPS)]
    assert len(images) == found["num_images"]
    for image in images:
        pixels = read_source(image.source, max_pixels=10**6)
        assert fits(pixels, masks_of(image)), image.image_id
        categories = [{"name": name, "frequency_group": "f"} for name in ("red", "green")]
        assert draw(image, categories, max_pixels=10**6).problem == ""
    stream = pool_stream(config, run)
    stream._augment = no_augmentation
    for step in range(len(images)):
        assert_fits(*stream.load(step, np.random.default_rng(0)))
    dataset = EXAMPLE["PseudoLabels"](run.uri)
    for image, objects in map(dataset.__getitem__, range(len(dataset))):
        seen = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        masks = encode_masks(objects["masks"].numpy())
        assert fits(seen, zip((objects["labels"] - 1).tolist(), masks, strict=True))

    assert all(row["as_stored"] == as_stored for row in label_rows(run))


@pytest.mark.parametrize("as_stored", [True, False])
@pytest.mark.usefixtures("without_ray")
def test_exports_say_which_pixels_they_label(as_stored: bool, tmp_path: Path) -> None:
    """COCO's entries name images whose stored pixels are labelled. YOLO's polygons are of the displayed images."""
    config = with_truth(tmp_path, as_stored=as_stored)
    run = labelled_by_colour(config, tmp_path / "run")
    export_labels(run, "coco", tmp_path / "coco.json")
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert all(one.get("as_stored", False) == as_stored for one in images)
    exported = read_annotations(tmp_path / "coco.json", images_root=tmp_path / "pool" / "images")
    truth = RunData(config).pool_truth
    assert truth is not None
    sizes = {image.file_name: image.image_size_hw for image in truth.images}
    assert {image.file_name: image.image_size_hw for image in exported.images} == sizes

    export_labels(run, "yolo", tmp_path / "yolo")
    for one in photographs("p", as_stored=False):
        height, width = one.annotated().shape[:2]
        lines = (tmp_path / "yolo" / "labels" / one.name).with_suffix(".txt").read_text().splitlines()
        assert len(lines) == len(COLOURS)
        for line in lines:
            index, *points = line.split()
            polygon = (np.array(points, float).reshape(-1, 2) * (width, height)).ravel().tolist()
            mask = coco_mask.decode(coco_mask.frPyObjects([polygon], height, width)[0]).astype(bool)
            expected = (one.annotated() == COLOURS[int(index)]).all(axis=2)
            assert (mask & expected).sum() / (mask | expected).sum() > 0.9, one.name


@pytest.mark.usefixtures("without_ray")
def test_a_yolo_export_needs_the_images_whose_stored_pixels_are_labelled(tmp_path: Path) -> None:
    config = with_truth(tmp_path, as_stored=True)
    run = labelled_by_colour(config, tmp_path / "run")
    for path in (tmp_path / "pool" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"p0-\d-\w+\.png: can't be read for its EXIF orientation: zero bytes"):
        export_labels(run, "yolo", tmp_path / "yolo")


@pytest.mark.parametrize("as_stored", [True, False])
@pytest.mark.parametrize("name", ["labelled", "calibration", "validation"])
def test_annotated_images_are_read_as_annotated(name: str, as_stored: bool, tmp_path: Path) -> None:
    part = getattr(RunData(with_fraction(tmp_path, as_stored=as_stored)), name)
    for row, image in enumerate(part.images):
        truth = part.ground_truth(row)
        pixels = read_source(image.source, max_pixels=10**6)
        assert fits(pixels, zip(truth.class_indices.tolist(), truth.masks, strict=True)), image.file_name


@pytest.mark.usefixtures("without_ray")
def test_students_learn_from_annotated_images_as_annotated(tmp_path: Path) -> None:
    config = with_truth(tmp_path, as_stored=True)
    run = labelled_by_colour(config, tmp_path / "run")
    _, job = student_job(config_dict(config), run, True)
    job.labelled._augment = no_augmentation  # type: ignore[attr-defined]  # declared as the protocol Examples
    for row in range(len(job.labelled)):
        assert_fits(*job.labelled.load(row, np.random.default_rng(0)))


def masks_of(image: KeptImage) -> list[tuple[int, Rle]]:
    size = list(image.image_size_hw)
    return [(one["class_index"], Rle(size=size, counts=one["mask_counts"])) for one in image.structs]


def assert_fits(image: Any, target: Any) -> None:
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    classes = target.class_probs[:, :-1].argmax(dim=1).tolist()
    masks = encode_masks(target.masks_NHW.numpy().astype(bool))
    assert len(classes) == len(COLOURS)
    assert fits(pixels, zip(classes, masks, strict=True))


@pytest.mark.usefixtures("without_ray")
def test_labels_of_an_earlier_version_are_of_displayed_images(tmp_path: Path) -> None:
    """Their shards and manifest lack the columns. Images of another size or orientation than their truth are counted
    and left out. The other images are measured: those without an EXIF orientation."""
    config = with_truth(tmp_path, as_stored=True)
    unknown = replace(config, data=replace(config.data, pool_truth=None))
    run = labelled_by_colour(unknown, tmp_path / "run")
    for uri in committed_shards(run).values():
        table, metadata = read_table(uri), read_table_metadata(uri)
        assert table["as_stored"].null_count == len(table)
        commit_table(uri, table.drop_columns("as_stored").replace_schema_metadata(metadata))
    found = measured(config, run)
    assert (found["num_other_size"], found["num_other_orientation"], found["num_images"]) == (4, 10, 2)
    assert {name: found["selected"][name] for name in PERFECT} == PERFECT
    images = [one for uri in committed_shards(run).values() for one in kept_images(uri, config.selection, GROUPS)]
    assert not any(image.as_stored for image in images)
    for image in images:
        assert fits(read_source(image.source, max_pixels=10**6), masks_of(image))
    stream = pool_stream(config, run)
    stream._augment = no_augmentation
    for step in range(len(images)):
        assert_fits(*stream.load(step, np.random.default_rng(0)))


@pytest.mark.usefixtures("without_ray")
def test_a_truth_of_displayed_images_fits_labels_that_were_made_before_it(tmp_path: Path) -> None:
    config = with_truth(tmp_path, as_stored=False)
    unknown = replace(config, data=replace(config.data, pool_truth=None))
    found = measured(config, labelled_by_colour(unknown, tmp_path / "run"))
    assert found["num_images"] == 16
    assert {name: found["selected"][name] for name in PERFECT} == PERFECT


@pytest.mark.usefixtures("without_ray")
def test_an_interrupted_run_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    config = with_truth(tmp_path, as_stored=True)
    run = labelled_by_colour(config, tmp_path / "run")
    [part] = Path(run.path("labels", "pool")).glob("part-*.parquet")
    old = read_table(str(part)).drop_columns(["height", "width", "as_stored"])
    first, second = committed_shards(run).values()
    Path(second).unlink()
    Path(run.path("labels", "artifact.json")).unlink()
    before = read_table(first)
    with pq.ParquetWriter(part, old.schema) as writer:
        for start in (0, 8):
            writer.write_table(old.slice(start, 8), row_group_size=8)
    label.run_stage(config, run)
    assert read_table(first).equals(before)
    assert not any(read_table(second)["as_stored"].to_pylist())
    assert len(label_rows(run)) == 16


@pytest.mark.usefixtures("without_ray")
def test_a_pool_image_of_another_size_than_its_truth_is_quarantined(tmp_path: Path) -> None:
    config = with_truth(tmp_path, as_stored=True)
    path = tmp_path / "pool" / "truth.json"
    content = json.loads(path.read_text())
    content["images"][0] |= {"height": 99, "width": 98}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 1]
    path.write_text(json.dumps(content))
    config = replace(config, label=replace(config.label, max_bad_fraction=0.1))
    rows = label_rows(labelled_by_colour(config, tmp_path / "run"))
    [row] = [one for one in rows if one["status"] != "ok"]
    assert (row["image_id"], row["status"]) == (
        content["images"][0]["file_name"],
        "another size: 24 x 16 pixels (width x height), annotated as 98 x 99",
    )


@pytest.mark.usefixtures("without_ray")
def test_a_truth_of_other_sizes_is_refused(tmp_path: Path) -> None:
    config = with_truth(tmp_path, as_stored=True)
    unknown = replace(config, data=replace(config.data, pool_truth=None))
    run = labelled_by_colour(unknown, tmp_path / "run")
    path = tmp_path / "pool" / "truth.json"
    content = json.loads(path.read_text())
    content["annotations"] = []
    for one in content["images"]:
        one |= {"height": 99, "width": 98}
    path.write_text(json.dumps(content))
    sizes = r"labelled as 24 x 16 pixels \(width x height\), annotated as 98 x 99"
    message = rf"data\.pool_truth: 16 of 16 labelled images .* {sizes}"
    with pytest.raises(InputError, match=message):
        measured(config, run)


def test_check_says_how_many_images_are_turned_and_how_they_are_read(tmp_path: Path) -> None:
    config = replace(with_truth(tmp_path, as_stored=True), out=str(tmp_path / "run"))
    printed = format_check(check_run(config))
    assert (
        "images that EXIF turns or mirrors: 4 annotated and read as displayed, 10 of the annotated size either way and "
        "read as displayed" in printed
    )
    assert "does not tell" not in printed, "annotations are of stored pixels as a rule"
    displayed = replace(with_truth(tmp_path / "displayed", as_stored=False), out=str(tmp_path / "run"))
    assert "truth known, read as displayed where the size does not tell" in format_check(check_run(displayed))


def test_a_split_that_does_not_tell_beside_one_that_does_is_a_warning(tmp_path: Path) -> None:
    """The validation split has upside-down and mirrored photographs alone, which fit either way."""
    config = with_truth(tmp_path, as_stored=True)  # so labelled is of displayed images
    content = json.loads((tmp_path / "labelled.json").read_text())
    content["images"] = [one for one in content["images"] if one["file_name"].split("-")[1] in "234"]
    ids = {one["id"] for one in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    (tmp_path / "val.json").write_text(json.dumps(content))
    data = replace(config.data, validation=str(tmp_path / "val.json"))
    found = check_run(replace(config, data=data, out=str(tmp_path / "run")))
    num = len(content["images"])
    assert (
        f"data.validation: {num} images that EXIF mirrors or turns have the annotated size either way. "
        "They are read as stored, although data.labelled annotates displayed images" in found["remarks"]
    )
    sound = check_run(replace(config, out=str(tmp_path / "run")))
    assert not [one for one in sound["remarks"] if "either way" in one]


def test_what_a_file_says_of_an_image_counts(tmp_path: Path) -> None:
    """An export of images with and without a truth has both orientations in one file."""
    config = with_truth(tmp_path, as_stored=True)
    content = json.loads((tmp_path / "labelled.json").read_text())
    for number, one in enumerate(content["images"]):
        one["as_stored"] = number % 2 == 0
    content["images"].append({"id": 99, "file_name": content["images"][0]["file_name"] + "x", "height": 4, "width": 4})
    (tmp_path / "labelled.json").write_text(json.dumps(content))
    *said, other = RunData(config).labelled.images
    assert [one.source.as_stored for one in said] == [number % 2 == 0 for number in range(len(said))]
    assert other.source.as_stored, "a file of which the other images say themselves how they are annotated"
