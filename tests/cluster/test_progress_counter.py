"""The progress counter: the last count of a key counts, memory is bounded, and other processes can read the figures."""

import io
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raylabel import progress
from raylabel.cluster import progress_counter
from raylabel.cluster.progress_counter import LiveCounter, live_progress
from raylabel.errors import StorageError
from raylabel.progress import Counts
from raylabel.run.folder import RunFolder
from raylabel.run.live_files import read_progress


@pytest.fixture
def counter() -> Any:
    """An instance of the actor's class, without Ray."""
    return LiveCounter.__ray_metadata__.modified_class()


def test_a_key_counts_once(counter: Any) -> None:
    counter.report("shard-0", 8, 20, 1)
    counter.report("shard-1", 5, 9, 0)
    counter.report("shard-0", 3, 7, 0)  # made again, by another worker
    assert counter.total() == Counts(done=8, num_instances=16, num_quarantined=0)


def test_stages_that_count_one_number_show_one(counter: Any) -> None:
    counter.report("teacher", 3, note="loss 2.0")
    counter.report("student", 4)
    assert counter.total() == Counts(done=7, note="loss 2.0")


def test_memory_does_not_grow_with_the_shards(counter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_counter, "KEYS_HELD", 3)
    for shard in range(100):
        counter.report("slow", shard, 1, 0)
        counter.report(f"shard-{shard}", 8, 2, 1)
    assert len(counter._by_key) == 3
    assert counter.total() == Counts(done=99 + 800, num_instances=1 + 200, num_quarantined=100)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_figures_are_in_the_run_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress_counter, "FIGURES_SECONDS", 0.0)
    monkeypatch.setattr(progress, "SETTLING_SECONDS", 0.0)
    run, left = RunFolder(str(tmp_path)), list[int]()
    with live_progress(
        "label", 100, unit="images", run=run, folder="labels", done=40, quarantined=2, show_left=left.append
    ) as counter:
        counter.report.remote("shard-3", 10, 30, 1)
        deadline = time.monotonic() + 30
        while (found := read_progress(run, "labels")) is None or found["figures"]["done"] == 40:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        counter.report.remote("shard-3", 60, 90, 1)
    assert found["label"] == "label"
    assert found["age_seconds"] < 10
    figures = found["figures"]
    assert (figures["done"], figures["total"], figures["unit"]) == (50, 100, "images")
    assert (figures["num_instances"], figures["num_quarantined"]) == (30, 3)
    assert figures["per_second"] > 0
    assert figures["instances_per_second"] == pytest.approx(3 * figures["per_second"])
    assert figures["seconds_left"] == pytest.approx(50 / figures["per_second"])
    assert read_progress(run, "labels") is None, "the figures are removed when the work is done"
    assert stream.getvalue().splitlines()[-1].startswith("label: 100/100 images")
    assert "3 quarantined" in stream.getvalue()
    assert 50 in left
    assert left[-1] == 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_figures_stay_where_the_work_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_counter, "FIGURES_SECONDS", 0.0)
    run = RunFolder(str(tmp_path))

    def interrupted() -> None:
        with live_progress("label", 100, unit="images", run=run, folder="labels"):
            while read_progress(run, "labels") is None:
                time.sleep(0.1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_progress(run, "labels") is not None


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_figures_that_cannot_be_written_fail_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_tries = 0

    def failing(*args: object, **kwargs: object) -> None:
        nonlocal num_tries
        num_tries += 1
        raise StorageError("the store is out of reach")

    monkeypatch.setattr(progress_counter, "FIGURES_SECONDS", 0.0)
    monkeypatch.setattr(progress_counter, "commit_progress", failing)
    monkeypatch.setattr(progress_counter, "remove_progress", failing)
    with live_progress("label", 100, unit="images", run=RunFolder(str(tmp_path)), folder="labels") as counter:
        deadline = time.monotonic() + 30
        while num_tries < 2:
            assert time.monotonic() < deadline, "it must try again after a failure"
            time.sleep(0.1)
        counter.report.remote("shard-3", 100, 90, 1)


def test_a_restarted_counter_goes_on(counter: Any) -> None:
    counter.report("shard-0", 8, 20, 1)
    counter.report("shard-1", 5, 9, 0)
    counter.start(1, 0, 2)
    known = counter.counts()
    again = LiveCounter.__ray_metadata__.modified_class()
    again.start(1, 1, 2)
    again.report("shard-1", 7, 12, 0)
    again.report("shard-2", 1, 1, 0)
    again.restore(*known)
    assert again.total() == Counts(done=16, num_instances=33, num_quarantined=1)
    assert counter.look()[0] != again.look()[0]
    assert again.num_started(1) == (2, 2), "one started before, one since"


def test_workers_that_have_started(counter: Any) -> None:
    assert counter.num_started(1) == (0, 0)
    counter.start(1, 0, 2)
    assert counter.num_started(1) == (1, 2)
    counter.start(2, 1, 3)
    counter.start(1, 0, 2)  # late
    assert counter.num_started(2) == (1, 3)
    assert counter.num_started(3) == (0, 0)
