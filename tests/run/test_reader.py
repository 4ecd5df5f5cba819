"""`rl.Run` streams the committed predictions and those that the selection keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import raylabel as rl
from raylabel.config import SelectionConfig
from raylabel.errors import InputError
from raylabel.run.folder import RunFolder
from raylabel.run.labels.kept import kept_batches, kept_images
from raylabel.run.labels.shards import committed_shards, label_batches
from raylabel.schema import LABELS

GROUPS = np.array(["r", "c", "f"])


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Two shards: images with 3, 1, 0 and 2 predictions, and one quarantined image per shard."""
    from pool_world import pool_run

    run = pool_run(tmp_path, [[[0, 1, 2], [1]], [[], [2, 2]]], num_classes=3)
    return list(committed_shards(run).values())


@pytest.mark.parametrize(
    "selection",
    [
        SelectionConfig(min_score=0.5),
        SelectionConfig(min_score=0.5, min_score_by_group={"c": 0.95}),
        SelectionConfig(min_score=0.5, max_per_image=1),
        SelectionConfig(min_score=0.99),
    ],
)
def test_batches_hold_what_the_selection_keeps(shards: list[str], selection: SelectionConfig) -> None:
    for uri in shards:
        expected = {one.image_id: one.structs for one in kept_images(uri, selection, GROUPS) if one.structs}
        batches = list(kept_batches(uri, selection, GROUPS))
        assert all(batch.schema.equals(LABELS) for batch in batches)
        found = {row["image_id"]: row["instances"] for batch in batches for row in batch.to_pylist()}
        assert found == expected


def test_labels_stream_every_row(shards: list[str]) -> None:
    rows = [row for uri in shards for batch in label_batches(uri) for row in batch.to_pylist()]
    assert [len(row["instances"]) for row in rows] == [0, 3, 1, 0, 0, 2]
    assert [row["status"] for row in rows].count("missing") == 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a run folder, because it has no config\.yaml"):
        rl.Run(tmp_path)


@pytest.mark.ray
def test_a_run_reads_what_its_stages_wrote(finished_run: tuple[rl.Config, RunFolder, dict[str, Any]]) -> None:
    config, folder, artifacts = finished_run
    run = rl.Run(folder.uri)
    assert run.config == config
    assert run.uri == folder.uri
    assert {name: run.artifact(name) for name in artifacts} == artifacts
    assert run.metrics == artifacts["evaluate"]["metrics"]
    assert run.corrector.kind == artifacts["label"]["corrector"]
    labels = pa.Table.from_batches(run.labels())
    assert labels.num_rows == artifacts["label"]["num_images"]
    kept = pa.Table.from_batches(run.pseudo_labels(), schema=LABELS)
    assert sum(len(row) for row in kept["instances"].to_pylist()) == artifacts["label"]["selection"]["kept"] > 0
    one_shard = pa.Table.from_batches(run.pseudo_labels(run.shards[0]), schema=LABELS)
    assert one_shard.equals(pa.Table.from_batches(run.pseudo_labels(run.shards[:1]), schema=LABELS))
    assert rl.status(run)["run"] == run.uri
    with pytest.raises(InputError, match=r"stage must be one of prototypes, .* got 'labels'"):
        run.artifact("labels")


def test_a_run_that_has_begun_says_what_is_missing(tmp_path: Path, config: rl.Config) -> None:
    from raylabel.run.folder import commit_config

    commit_config(RunFolder(str(tmp_path)), config)
    run = rl.Run(tmp_path)
    assert list(run.labels()) == []
    for read in (lambda: run.metrics, lambda: run.corrector, lambda: run.classes, lambda: run.artifact("label")):
        with pytest.raises(InputError, match=str(tmp_path)):
            read()
