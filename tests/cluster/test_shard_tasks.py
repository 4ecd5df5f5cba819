"""Work on committed shards, as tasks on the cluster and on threads."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pool_world import labelled_run
from raylabel.cluster import shard_tasks
from raylabel.cluster.shard_tasks import FEW_ITEMS, map_over_shards
from raylabel.config import SelectionConfig
from raylabel.errors import InputError, StorageError
from raylabel.run.classes import load_classes
from raylabel.run.labels import shards
from raylabel.run.labels.survey import survey_labels
from raylabel.threads import map_on_threads

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

MANY = 3 * FEW_ITEMS


def where(item: int, *, kills_its_worker: str = "") -> tuple[int, int]:
    """Return the item and the process. With a file to write, the first try of item 5 ends its process."""
    if item == 5 and kills_its_worker and not Path(kills_its_worker).exists():
        Path(kills_its_worker).touch()
        os._exit(1)
    return item, os.getpid()


def fails(item: int, *, kind: type[Exception]) -> int:
    if item == 7:
        raise kind("a.parquet: damaged")
    return item


def test_many_items_go_to_the_cluster_and_few_stay_here() -> None:
    items, processes = zip(*map_over_shards(where, range(MANY)), strict=True)
    assert items == tuple(range(MANY))
    assert os.getpid() not in processes
    assert {process for _, process in map_over_shards(where, range(FEW_ITEMS))} == {os.getpid()}
    assert list(map_over_shards(where, [])) == []


def test_a_task_whose_worker_dies_runs_again(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    found = map_over_shards(partial(where, kills_its_worker=str(mark)), range(MANY))
    assert [item for item, _ in found] == list(range(MANY))
    assert mark.exists()


@pytest.mark.parametrize("kind", [InputError, StorageError])
@pytest.mark.parametrize("num", [FEW_ITEMS, MANY])
def test_an_error_of_one_line_stays_one(kind: type[Exception], num: int) -> None:
    results = []
    with pytest.raises(kind) as caught:
        results += list(map_over_shards(partial(fails, kind=kind), range(num)))
    assert str(caught.value) == "a.parquet: damaged"
    assert type(caught.value) is kind


def test_a_survey_on_the_cluster_counts_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = labelled_run(tmp_path, [[[0], [0, 1]], [[]], [[1], [2, 2]], [[2]], [[0]]], names=("a", "b", "c"))
    monkeypatch.setattr(shards, "_SHARDS_AT_A_TIME", 2)
    monkeypatch.setattr(shard_tasks, "FEW_ITEMS", 0)
    here, there = (
        survey_labels(run, SelectionConfig(), load_classes(run), map_groups=how)
        for how in (map_on_threads, map_over_shards)
    )
    assert there.counts == here.counts
    assert there.quarantined == here.quarantined
    assert there.correctors == here.correctors == {"made up"}
    for name in ("num", "products", "num_images_with"):
        np.testing.assert_array_equal(getattr(there.image_counts, name), getattr(here.image_counts, name))
    np.testing.assert_array_equal(there.fates.counts, here.fates.counts)
    assert there.histogram.to_table().equals(here.histogram.to_table())
