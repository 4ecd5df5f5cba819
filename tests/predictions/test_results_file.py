"""One reader for calibrate, correct and evaluate: any value in any field gives a result or one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from json_values import near
from one_line import value_or_line
from raylabel.calibration.results_file import match_results, unmatched_results
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.errors import InputError
from raylabel.evaluation.checked_results import check_results
from raylabel.files.json_files import read_json
from raylabel.predictions.results_file import entry_images, entry_masks, entry_scores

SQUARE = [[0, 0, 4, 0, 4, 4, 0, 4]]
RUNS = {"size": [8, 8], "counts": [0, 4, 4, 4, 4, 4, 4, 4, 36]}
TEXT = {"size": [8, 8], "counts": "04400000P1"}
ENTRY = {"image_id": 1, "category_id": 7, "score": 0.75, "segmentation": RUNS, "bbox": [0, 0, 4, 4]}
TRUTH = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "segmentation": SQUARE, "bbox": [0, 0, 4, 4], "area": 16}
    ],
}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedSet:
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps(TRUTH))
    return read_annotations(path)


def of_commands(entries: list[dict[str, Any]], annotated: AnnotatedSet) -> dict[str, tuple[Any, str]]:
    """Read the entries as each command does; return its value, or the line that refuses them."""
    classes = annotated.class_index_of
    return {
        "calibrate": value_or_line(lambda: match_results(entries, annotated, where="r.json").detections),
        "correct": value_or_line(lambda: unmatched_results("r.json", entries, classes, annotated=annotated).detections),
        "evaluate": value_or_line(lambda: check_results(TRUTH, entries).figures()),
    }


@pytest.mark.parametrize("mask", [SQUARE, RUNS, TEXT, RUNS | {"size": [8.0, 8.0]}, TEXT | {"size": [8.0, 8]}])
def test_the_same_forms_are_read_by_every_command(annotated: AnnotatedSet, mask: Any) -> None:
    read = of_commands([ENTRY | {"segmentation": mask}], annotated)
    assert [line for _, line in read.values()] == ["", "", ""]
    assert read["calibrate"][0].outcomes.tolist() == [1]
    assert read["evaluate"][0]["AP"] == pytest.approx(1)
    np.testing.assert_array_equal(read["correct"][0].context, read["calibrate"][0].context)


DAMAGED = {
    "far polygon": ({"segmentation": [[0, 0, 1e12, 0, 1e12, 1e12]]}, "far outside its image"),
    "NaN polygon": ({"segmentation": [[float("nan"), 0, 4, 0, 4, 4]]}, "not a finite number"),
    "infinite polygon": ({"segmentation": [[0, 0, float("inf"), 0, 4, 4]]}, "not a finite number"),
    "text polygon": ({"segmentation": [["0", 0, 4, 0, 4, 4]]}, "not a finite number"),
    "no polygon": ({"segmentation": []}, "has no polygon"),
    "broken size": ({"segmentation": RUNS | {"size": [8.5, 8]}}, "RLE size must be"),
    "damaged runs": ({"segmentation": TEXT | {"counts": "zzz"}}, "RLE counts"),
    "no mask": ({"segmentation": None}, "has no segmentation"),
    "huge image id": ({"image_id": 2**80}, "unknown image_id"),
    "huge category id": ({"category_id": -(2**80)}, "unknown category_id"),
    "endless integer": ({"image_id": 10**4000}, "unknown image_id"),
    "NaN score": ({"score": float("nan")}, "score must be"),
    "huge score": ({"score": 10**400}, "score must be"),
    "no score": ({"score": None}, "score must be"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_refused_alike_by_every_command(annotated: AnnotatedSet, name: str) -> None:
    change, message = DAMAGED[name]
    for _, line in of_commands([ENTRY, ENTRY | change], annotated).values():
        assert "entry 1" in line
        assert message in line


@given(data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_value_in_any_field_is_a_result_or_one_line(annotated: AnnotatedSet, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*ENTRY, "extra"]))
    mask = data.draw(st.sampled_from([SQUARE, RUNS, TEXT]))
    entry = ENTRY | {"segmentation": mask}
    entry[name] = data.draw(near(entry.get(name, 1)))
    read = of_commands([ENTRY, entry], annotated)
    if name == "extra":
        assert [line for _, line in read.values()] == ["", "", ""]
    elif name == "bbox":
        assert [read["calibrate"][1], read["correct"][1]] == ["", ""]
    of_boxes = value_or_line(lambda: check_results(TRUTH, [ENTRY, entry], iou_type="bbox").figures())
    if name in ("segmentation", "extra"):
        assert of_boxes[1] == "", "boxes need no mask"


def test_scores_may_exceed_one_by_rounding() -> None:
    entries = [{"score": 1 + 9e-7}, {"score": -9e-7}, {"score": 1}]
    assert entry_scores(entries, "r.json", are_probabilities=True).tolist() == [1, 0, 1]
    assert entry_scores(entries, "r.json", are_probabilities=False).tolist() == [1 + 9e-7, -9e-7, 1]
    for score in (1.00001, -0.00001):
        with pytest.raises(InputError, match=r"entry 0: score must be a number in \[0, 1\]"):
            entry_scores([{"score": score}], "r.json", are_probabilities=True)


def test_an_empty_list_is_read(tmp_path: Path, annotated: AnnotatedSet) -> None:
    (tmp_path / "r.json").write_text("[]")
    entries = read_json(str(tmp_path / "r.json"))
    read = of_commands(entries, annotated)
    assert read["calibrate"][1] == "r.json: results hold no detection"
    assert len(read["correct"][0]) == 0
    assert read["evaluate"][0]["AP"] == 0


def test_without_annotations_an_rle_gives_the_size_of_its_image() -> None:
    entries = [{"image_id": 1.0, "segmentation": SQUARE}, {"image_id": 1, "segmentation": TEXT}]
    assert entry_images(entries, "r.json") == [1, 1]
    assert entry_masks(entries, [1, 1], {}, "r.json") == [SQUARE, TEXT]
    with pytest.raises(InputError, match=r"entry 0 \(image 1.0\): polygons need the height and width .*; look there"):
        entry_masks(entries[:1], [1], {}, "r.json", remedy="; look there")
    other = {"image_id": 1, "segmentation": {"size": [9, 9], "counts": [81]}}
    with pytest.raises(
        InputError, match=r"entry 1 \(image 1\): RLE size must be \[8, 8\] like its image, got \[9, 9\]"
    ):
        entry_masks([entries[1], other], [1, 1], {}, "r.json")
    for size in ([10**9, 10**9], [0, 8], "8x8", None):
        with pytest.raises(InputError, match=r"entry 0 .*: RLE size must be the height and width of an image"):
            entry_masks([{"image_id": 1, "segmentation": TEXT | {"size": size}}], [1], {}, "r.json")
    for image_id in (None, True, [1], float("nan"), 1.5):
        with pytest.raises(InputError, match="entry 0 has no image_id that is"):
            entry_images([{"image_id": image_id}], "r.json")
