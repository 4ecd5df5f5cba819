"""Damaged corrector.json files give scores or one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from json_values import damaged
from one_line import value_or_line
from raylabel.calibration import FitContext, fit_corrector, read_detections
from raylabel.config import CORRECTOR_KINDS
from raylabel.dataset.annotations import read_annotations
from raylabel.errors import InputError
from raylabel.external import correct_results
from raylabel.files.json_files import read_json
from small_results import Files, edited, write_files


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A folder with the small files, and the content of a corrector.json per kind that was fitted to them."""
    folder = tmp_path_factory.mktemp("small")
    predictions, annotations, _ = write_files(folder)
    truth = read_annotations(annotations)
    detections, context = read_detections(predictions, truth), FitContext.of(truth)
    ids = {"category_ids": truth.category_ids.tolist()}
    return folder, {kind: fit_corrector(kind, detections, context=context).to_json() | ids for kind in CORRECTOR_KINDS}


@pytest.mark.parametrize("kind", CORRECTOR_KINDS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_damaged_corrector_gives_scores_or_one_line(
    small: tuple[Path, dict[str, dict[str, Any]]], kind: str, data: st.DataObject
) -> None:
    folder, fitted = small
    content = fitted[kind] | ({"share": 1.0} if kind == "contextual" else {})
    (folder / "corrector.json").write_text(json.dumps(data.draw(damaged(content))))
    files = (folder / "corrector.json", folder / "results.json", folder / "corrected.json")
    _, line = value_or_line(lambda: correct_results(*files))
    if not line:
        assert all(0 <= one["score"] <= 1 for one in read_json(str(files[2])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_ids": [3, 3]}, "category_ids must differ"),
        ({"category_ids": [3, 2**63]}, "category_ids number 1: id must be an integer of at most 64 bits"),
        ({"category_ids": [3]}, "does not fit its classes: the corrector was fitted on 2 classes"),
        ({"bias": [0.1, float("nan")]}, r"gives scores that are not in \[0, 1\]"),
        ({"bias": 0.1}, "corrector 'ccece' does not fit its classes"),
        ({"bias": {}}, "corrector 'ccece' lacks or has a malformed parameter"),
    ],
)
def test_damaged_correctors_are_named(
    small: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "c.json").write_text(json.dumps(small[1]["ccece"] | change))
    with pytest.raises(InputError, match=rf"c\.json: .*{message}"):
        correct_results(tmp_path / "c.json", small[0] / "results.json", tmp_path / "out.json")


def test_a_corrector_that_was_changed_is_refused(
    calibration: tuple[Path, dict[str, Any]], files: Files, tmp_path: Path
) -> None:
    """LightGBM ends the process with a segmentation fault on trees with a changed digit."""
    content = read_json(str(calibration[0] / "corrector.json"))
    content["values"][0][0] += 1e-9
    (tmp_path / "corrector.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"corrector\.json: was changed after calibrate wrote it"):
        correct_results(tmp_path / "corrector.json", files[0], tmp_path / "out.json")
    (tmp_path / "corrector.json").write_text(json.dumps(edited(tmp_path / "corrector.json")))
    assert correct_results(tmp_path / "corrector.json", files[0], tmp_path / "out.json")["num_detections"] == 24
