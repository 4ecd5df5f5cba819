"""Pseudo-labels are measured where a truth is known, and images without a partner are counted."""

import json
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pool_world import SIDE, labelled_run
from raylabel.config import CalibrationConfig, SelectionConfig
from raylabel.dataset.annotations import read_annotations
from raylabel.dataset.pool.truth import TruthMatch
from raylabel.errors import InputError
from raylabel.evaluation.pool_quality import measure_pool
from raylabel.run.data import RunData, open_pool_truth
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.run.labels import shards

DEFAULTS: Any = {"calibration": CalibrationConfig(), "selection": SelectionConfig(), "max_pixels": 10**6}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A labelled pool of the images 0, 1 and 2, each with one object of the first class, and two quarantined ones."""
    return labelled_run(tmp_path, [[[0], [0]], [[0]]], names=["cat", "dog"])


def match(folder: Path, names: list[str]) -> TruthMatch:
    """A truth of images with these names, each with the object that is predicted."""
    square = [[3, 2, 12, 2, 12, 9, 3, 9]]
    content = {
        "images": [{"id": row, "file_name": name, "height": SIDE, "width": SIDE} for row, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": row, "image_id": row, "category_id": 1, "segmentation": square} for row in range(len(names))
        ],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return TruthMatch(read_annotations(folder / "truth.json"), "truth.json")


def test_images_without_a_partner_are_counted_on_both_sides(run: RunFolder, tmp_path: Path) -> None:
    matched = match(tmp_path, ["0", "2", "elsewhere", "bad-0"])
    found = measure_pool(run, matched, **DEFAULTS)
    assert found is not None
    assert (found["num_images"], found["num_objects"]) == (2, 2), "a quarantined image has a partner and no labels"
    assert (found["num_without_truth"], found["num_truth_not_in_pool"]) == (2, 1)
    assert found["selected"] == {"num": 2, "precision": 1, "recall": 1}
    assert matched.text() == (
        "3 of 4 images of truth.json are in the pool, and 2 of 5 images of the pool have no truth"
    )


def test_groups_of_shards_give_the_same_on_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, groups and what comes back are pickled, and the truth is opened there."""
    images = [[[0], [0, 1]], [[1], []], [[0, 0, 1]], [[1, 1], [0], [0]], [[]]]
    run, names = labelled_run(tmp_path, images, names=["cat", "dog"]), [str(one) for one in range(1, 9)]
    before = match(tmp_path, names)
    expected = measure_pool(run, before, **DEFAULTS)
    assert expected is not None
    assert (expected["num_images"], expected["num_instances"]) == (8, 10)
    sent = list[Any]()

    def elsewhere(function: Any, items: Any) -> Iterator[Any]:
        for item in items:
            sent.append(item)
            there, given = pickle.loads(pickle.dumps((function, item)))
            yield pickle.loads(pickle.dumps(there(given)))

    monkeypatch.setattr(shards, "_SHARDS_AT_A_TIME", 2)
    after = match(tmp_path, names)
    open_truth = partial(read_annotations, tmp_path / "truth.json")
    assert measure_pool(run, after, open_truth=open_truth, map_groups=elsewhere, **DEFAULTS) == expected
    assert len(sent) == 4 * 3, "images are read, those labelled as displayed twice more, and instances are matched"
    assert after.text() == before.text()


def test_the_data_of_a_run_are_opened_again_elsewhere(run: RunFolder) -> None:
    data = RunData(load_run_config(run), run)
    vars(data)["pool_truth"] = match(Path(run.uri), ["0"]).truth
    there = pickle.loads(pickle.dumps(partial(open_pool_truth, data)))
    assert there.args == (data,)
    assert set(vars(there.args[0])) == {"config", "run"}


def test_a_whole_match_says_nothing(run: RunFolder, tmp_path: Path) -> None:
    matched = match(tmp_path, ["0", "1", "2", "bad-0", "bad-1"])
    measure_pool(run, matched, **DEFAULTS)
    assert matched.text() == ""
    assert measure_pool(run, None, **DEFAULTS) is None


def test_a_truth_of_other_names_is_refused(run: RunFolder, tmp_path: Path) -> None:
    message = (
        r"data\.pool_truth: 0 of 2 images of truth\.json are in the pool, and 5 of 5 .* "
        r"Every file_name must be the image id in the pool, such as 'bad-0', got 'pool/0'"
    )
    with pytest.raises(InputError, match=message):
        measure_pool(
            run,
            match(tmp_path, ["pool/0", "pool/1"]),
            max_pixels=10**6,
            calibration=CalibrationConfig(),
            selection=SelectionConfig(),
        )
