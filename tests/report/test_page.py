"""The page is complete, self-contained and escaped, marks the best model, and stays whole without some stages."""

import base64
import csv
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raylabel.calibration.metrics.binned import class_bias
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.moving import remove
from raylabel.report.calibration_view import class_rows, classes_csv
from raylabel.report.gallery import choose_images, draw
from raylabel.report.page import build_report, calibration_page
from raylabel.report.sections import difference_table, precision_table
from raylabel.run.classes import load_categories
from raylabel.run.folder import RunFolder, load_run_config
from small_calibration import fitted_calibration

VOID = {"meta", "img", "br", "link", "input"}


class Outline(HTMLParser):
    """Unclosed tags, texts and sources of resources of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(full_run: RunFolder) -> str:
    return build_report(full_run)


@pytest.fixture
def copied_run(full_run: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(full_run.uri, tmp_path / "run")
    return RunFolder(str(tmp_path / "run"))


def test_self_contained_and_well_formed(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert outline.tags.count("html") == 1
    assert all(source.startswith(("data:image/", "#")) for source in outline.sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_class_names_and_image_ids_are_escaped(page: str) -> None:
    assert Outline(page).tags.count("script") == 1, "the one that sorts tables"
    assert "<script>alert" not in page
    assert "<b>3</b>.png" not in page
    assert "<script>alert('x')</script>" in Outline(page).text
    assert "grey & brown disc" in Outline(page).text


def test_figures_of_every_section(page: str) -> None:
    text = Outline(page).text
    for expected in (
        "labelled images 240 30 of them also calibrated the scores; 7 images without labels",
        "student mask AP 37.2 -0.9 ± 1.1 over supervised training on the same labels; supervised 38.1; teacher 35.0",
        "3,100 optimizer steps in all; the supervised model took 3,100",
        "210 labelled + 30 calibration + 6 pool images, 3,100 steps",
        "0.141 → 0.042",
        "pseudo-labels kept 12 of 18 predictions; precision 0.750, recall 0.450",
        "calibrated score below selection.min_score (0.5)",
        "All 5 classes, the one with the fewest pseudo-labels first",
        "green disc common 4 0.600 0.50 1 calibrated score below selection.min_score 3 grey & brown disc frequent 2",
        "cross-validated: each image is corrected by a corrector fitted on the others",
        "5 classes: 2 rare , 1 common , 2 frequent",
        "(zero bytes: 1)",
        "can't be shown: missing",
        "min_mask_quality: 0.0",
        "dropped predictions: 1",
    ):
        assert expected in text, expected
    assert text.count("0.97 → 0.90") == 6


def test_pictures_decode(page: str) -> None:
    found = re.findall(r'src="data:image/(png|jpeg);base64,([^"]+)"', page)
    formats = [Image.open(io.BytesIO(base64.b64decode(content))).format for _, content in found]
    assert formats.count("PNG") == 4
    assert formats.count("JPEG") == 5


def test_only_a_config_is_needed(full_run: RunFolder, tmp_path: Path) -> None:
    shutil.copy(Path(full_run.uri) / "config.yaml", tmp_path)
    outline = Outline(build_report(RunFolder(str(tmp_path))))
    assert outline.open == []
    assert outline.text.count("Not run:") == 5
    assert outline.text.count(" not run ") == 6


@pytest.mark.parametrize("folder", ["calibration", "labels"])
def test_any_stage_may_be_absent(copied_run: RunFolder, folder: str) -> None:
    remove(copied_run.path(folder))
    assert Outline(build_report(copied_run, gallery_size=1)).open == []


def test_page_says_on_what_its_figures_were_measured(copied_run: RunFolder) -> None:
    metrics = read_json(copied_run.path("evaluation", "metrics.json"))
    commit_json(copied_run.path("evaluation", "metrics.json"), metrics | {"pool": None})
    remove(copied_run.path("calibration", "bins_cross_validated.parquet"))
    text = Outline(build_report(copied_run, gallery_size=1)).text
    assert "on the calibration split, cross-validated" in text
    assert "The pool's truth is not known in this run." in text
    assert "on the very images that it was fitted to" in text


def test_page_says_whether_precision_was_verified(copied_run: RunFolder) -> None:
    uri = copied_run.path("evaluation", "metrics.json")
    assert "These figures are not verified. raylabel run CONFIG --verify" in Outline(build_report(copied_run)).text
    verification = {"evaluator": "lvis-api", "version": "0.5.3", "largest_difference": 1e-16, "num_figures": 52}
    verification |= {"figure": "APr", "model": "student", "agrees": True}
    for agrees, difference, text in (
        (True, 1e-16, "verified with lvis-api 0.5.3: largest difference 0.0000"),
        (False, 2e-5, "NOT confirmed by lvis-api 0.5.3: largest difference 2.0e-05"),
        (False, 0.25, "NOT confirmed by lvis-api 0.5.3: largest difference 0.2500"),
    ):
        commit_json(
            uri, read_json(uri) | {"verification": verification | {"agrees": agrees, "largest_difference": difference}}
        )
        page = Outline(build_report(copied_run, gallery_size=1)).text
        assert f"These figures are {text} (APr of student)." in page
        assert "--verify" not in page


def test_a_row_a_class_with_its_interval(page: str) -> None:
    text = Outline(page).text
    assert "All 5 classes, the rarest first" in text
    assert page.count('<svg class="interval"') == 5
    assert text.index("red disc") < text.index("green disc") < text.index("grey & brown disc")


def test_page_of_a_calibration_alone() -> None:
    tables, _ = fitted_calibration()
    page = calibration_page(tables, predictions="<results>.json", annotations="truth.json", iou_threshold=0.75)
    outline = Outline(page)
    assert outline.open == []
    assert all(source.startswith("data:image/") for source in outline.sources)
    assert not re.search(r"https?://|@import|url\(", page)
    assert outline.tags.count("script") == 1
    raw, calibrated = tables.summary["raw"], tables.summary["calibrated_cross_validated"]
    for expected in (
        "<results>.json",
        "mask IoU ≥ 0.75",
        f"ECE, raw → calibrated {raw['ece']:.3f} → {calibrated['ece']:.3f}",
        f"CCECE, raw → calibrated {raw['ccece']['all']:.3f} → {calibrated['ccece']['all']:.3f}",
        "Corrector: temperature",
        "grey & brown disc",
    ):
        assert expected in outline.text, expected


def test_classes_as_csv() -> None:
    tables, _ = fitted_calibration()
    text = classes_csv(tables.classes, tables.raw_bins, tables.cross_validated_bins).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows][1:3] == ["red disc", "green disc"]
    by_id = {row["category_id"]: row for row in rows}
    biases = class_bias(tables.cross_validated_bins)
    for expected in tables.classes.to_pylist():
        row = by_id[str(expected["category_id"])]
        assert float(row["accuracy"]) == pytest.approx(expected["accuracy"], rel=1e-5)
        assert float(row["mean_confidence"]) == pytest.approx(expected["accuracy"] + expected["bias"], rel=1e-5)
        assert float(row["bias_calibrated"]) == pytest.approx(biases[expected["class_index"]], rel=1e-5)
        assert int(row["num_detections"]) == expected["num_detections"]


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "+1", "-cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", " =1", "＝1", "\n=1", "a\r=1"]
)
def test_no_class_name_is_a_formula(name: str) -> None:
    tables, _ = fitted_calibration()
    names = ["plain = name", name, "'quoted", "a,b", "naïve"]
    column = tables.classes.schema.get_field_index("name")
    classes = tables.classes.set_column(column, "name", pa.array(names))
    text = classes_csv(classes, tables.raw_bins, tables.cross_validated_bins).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    cell = "a =1" if name.startswith("a") else f"'{' '.join(name.splitlines())}"
    assert {row["name"] for row in rows} == {"plain = name", cell, "'quoted", "a,b", "naïve"}
    assert any(float(row["bias"] or 0) < 0 for row in rows), "negative numbers stay numbers"


def test_confidence_is_the_bins_own_where_accuracy_is_an_estimate() -> None:
    """Accuracy of federated sets is estimated from more than the scored detections; bias is not."""
    tables, _ = fitted_calibration()
    column = tables.classes.schema.get_field_index("accuracy")
    estimated = tables.classes.set_column(column, "accuracy", pa.array(np.full(5, 0.9)))
    for row in class_rows(estimated, tables.raw_bins, tables.cross_validated_bins):
        of_class = tables.raw_bins.sum_confidence[row["class_index"]], tables.raw_bins.num[row["class_index"]]
        assert row["mean_confidence"] == pytest.approx(of_class[0].sum() / of_class[1].sum())


def test_a_class_without_a_detection_has_empty_cells() -> None:
    tables, _ = fitted_calibration(without=3)
    rows = list(
        csv.DictReader(io.StringIO(classes_csv(tables.classes, tables.raw_bins, tables.cross_validated_bins).decode()))
    )
    [row] = [row for row in rows if row["name"] == "blue disc"]
    assert row["num_detections"] == "0"
    assert {row[name] for name in ("accuracy", "bias", "bias_calibrated", "ccece_calibrated", "mean_confidence")} == {
        ""
    }
    page = calibration_page(tables, predictions="p", annotations="a", iou_threshold=0.5)
    assert page.count('<svg class="interval"') == 4
    assert "<th>annotated images</th>" in page, "the training images of somebody else's detector are unknown"


def test_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        build_report(RunFolder(str(tmp_path)))


def test_best_is_marked_whoever_it_is() -> None:
    arms = {"student": {"AP": 0.3, "APl": None}, "supervised": {"AP": 0.4, "APl": None}, "teacher": {"AP": 0.4}}
    table = precision_table({"validation": arms})
    assert table is not None
    assert table["names"] == ["AP", "APl"]
    assert [row["arm"] for row in table["rows"]] == ["teacher", "supervised", "student"]
    assert [row["cells"][0]["is_best"] for row in table["rows"]] == [True, True, False]
    assert not any(row["cells"][1]["is_best"] for row in table["rows"])
    equal = precision_table({"validation": {"student": {"AP": 0.0}, "teacher": {"AP": 0.0}}})
    assert equal is not None
    assert not any(row["cells"][0]["is_best"] for row in equal["rows"])
    assert precision_table({"validation": {}}) is None


def test_differences_are_marked_where_the_interval_is_on_one_side(page: str) -> None:
    of_models = {
        "student": {"AP": {"value": 0.02, "half_width": 0.03}, "APr": {"value": -0.05, "half_width": 0.04}},
        "teacher": {"AP": {"value": 0.02, "half_width": 0.01}},
    }
    table = difference_table({"validation_differences": {"from": "supervised", "models": of_models}})
    assert table is not None
    assert table["names"] == ["AP", "APr"]
    marks = {row["arm"]: [cell and cell["is_sure"] for cell in row["cells"]] for row in table["rows"]}
    assert marks == {"teacher": [True, None], "student": [False, True]}
    assert difference_table({"validation": {}}) is None
    text = Outline(page).text
    assert "Difference from supervised" in text
    assert "-3.1 ± 1.2" in text.replace("\xa0", " ")
    assert "35.0 ± 2.1" in text.replace("\xa0", " ")


def test_gallery_takes_rare_classes_first_and_draws_masks(full_run: RunFolder) -> None:
    config, categories = load_run_config(full_run), load_categories(full_run)
    chosen, rule = choose_images(full_run, config.selection, categories, 4, seed=config.seed)
    rarest = [min(categories[one["class_index"]]["num_train_images"] for one in image.structs) for image in chosen]
    everything, _ = choose_images(full_run, config.selection, categories, 100, seed=config.seed)
    assert len(everything) == 6
    assert rarest[:2] == [2, 2]
    assert len({image.image_id for image in chosen}) == 4
    assert "2 images with pseudo-labels of the rarest classes, then 2 at random" in rule

    image = next(image for image in everything if image.image_id != "<b>1</b>.png")
    drawn = draw(image, categories, max_pixels=10**6)
    unlabelled = draw(
        type(image)(**{**vars(image), "structs": []}),
        categories,
        max_pixels=10**6,
    )
    difference = np.abs(_pixels(drawn.jpeg) - _pixels(unlabelled.jpeg)).sum(axis=2) > 60
    assert 0.02 < difference.mean() < 0.6
    assert [label["number"] for label in drawn.labels] == [1, 2]
    assert draw(image, categories, max_pixels=10).problem.startswith("too large")


def _pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
