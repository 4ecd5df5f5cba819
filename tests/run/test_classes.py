"""A damaged classes.json or shard manifest is one line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from json_values import damaged
from one_line import value_or_line
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.manifest import read_manifest, write_manifest
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.run.classes import load_categories, load_classes
from raylabel.run.folder import RunFolder

CATEGORY = {"category_id": -3, "name": "cat", "frequency_group": "r", "num_train_images": 4}
CONTENT = {"categories": [CATEGORY, CATEGORY | {"category_id": 5, "name": "dog"}], "is_federated": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(str(tmp_path_factory.mktemp("run")))


def test_classes_are_read(run: RunFolder) -> None:
    commit_json(run.path("classes.json"), CONTENT)
    classes = load_classes(run)
    assert (classes.names, classes.category_ids.tolist(), classes.is_federated) == (("cat", "dog"), [-3, 5], False)
    assert load_categories(run) == CONTENT["categories"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "input should be a dictionary or an instance of ClassesFile, got"),
        ({"is_federated": True}, "categories: field required"),
        (CONTENT | {"categories": [CATEGORY | {"category_id": 2**63}]}, "categories: 0: category_id: input should be"),
        (CONTENT | {"categories": [CATEGORY | {"frequency_group": "x"}]}, "categories: 0: frequency_group: input"),
    ],
)
def test_damaged_classes_are_named(run: RunFolder, content: object, message: str) -> None:
    commit_json(run.path("classes.json"), content)
    with pytest.raises(InputError, match=rf"classes\.json: {message}"):
        load_classes(run)


@given(content=damaged(CONTENT))
@settings(max_examples=100, deadline=None)
def test_damaged_classes_are_classes_or_one_line(run: RunFolder, content: object) -> None:
    Path(run.path("classes.json")).write_text(json.dumps(content))
    value_or_line(lambda: load_classes(run))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_manifest_is_a_manifest_or_one_line(run: RunFolder, data: st.DataObject) -> None:
    images = [PoolImage(f"{number}.jpg", f"/pool/{number}.jpg") for number in range(3)]
    folder = run.path("pool")
    written = write_manifest(folder, images, source="/pool", shard_size=2)
    assert read_manifest(folder) == written
    path = Path(folder, "manifest.json")
    path.write_text(json.dumps(data.draw(damaged(read_json(str(path))))))
    value_or_line(lambda: read_manifest(folder))
