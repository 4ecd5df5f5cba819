"""A driver asks an autoscaler for the machines that are missing, waits for them, and keeps none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from false_cluster import node, set_nodes
from raylabel.cluster import machines
from raylabel.cluster.capacity import check_workers_fit, resolve_workers
from raylabel.cluster.machines import WAIT_VARIABLE
from raylabel.config import Config, LabelConfig
from raylabel.errors import InputError


class Autoscaler:
    """Adds a machine of one GPU at each look, while a placement group asks for them.

    Attributes:
        asked: the bundles of each group.
        groups: groups that were not removed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, most: int) -> None:
        self.asked: list[list[dict[str, float]]] = []
        self.groups: list[object] = []
        self.machines = [node(CPU=8.0)]
        self.most, self.patch, self.now = most, patch, 0.0
        patch.setattr(machines, "placement_group", self.ask)
        patch.setattr(machines, "remove_placement_group", self.groups.remove)
        patch.setattr(machines.time, "sleep", self.sleep)
        patch.setattr(machines.time, "monotonic", lambda: self.now)
        set_nodes(patch, *self.machines)

    def ask(self, bundles: list[dict[str, float]]) -> object:
        self.asked.append(bundles)
        self.groups.append(group := object())
        return group

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.groups and len(self.machines) <= self.most:
            self.machines.append(node(CPU=8.0, GPU=1.0, memory=40e9))
            set_nodes(self.patch, *self.machines)


@pytest.fixture
def autoscaler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Autoscaler]:
    monkeypatch.setenv(WAIT_VARIABLE, "600")
    return lambda most: Autoscaler(monkeypatch, most=most)


LABEL = LabelConfig(num_workers=3, num_cpus=2, num_gpus=1, memory_gb=4)


def test_machines_are_asked_for_and_awaited(autoscaler: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = autoscaler(most=8)
    assert resolve_workers(LABEL, num_shards=10).num_workers == 3
    assert cluster.asked == [[{"CPU": 2, "GPU": 1, "memory": 4e9}] * 3]
    assert not cluster.groups, "what was asked for is given back, because the workers ask themselves"
    assert "the cluster holds 0 of 3 workers (2 CPU, 1 GPU, 4 GB each), 600 s left" in capsys.readouterr().out
    assert resolve_workers(LABEL, num_shards=10).num_workers == 3
    assert len(cluster.asked) == 1, "machines that are there are not asked for"


def test_a_training_waits_as_well(autoscaler: Any, config: Config) -> None:
    cluster = autoscaler(most=8)
    settings = replace(config.teacher, num_workers=2, cpus_per_worker=6.0, gpus_per_worker=1.0)
    check_workers_fit("teacher", settings)
    assert len(cluster.machines) == 3


def test_no_more_machines_than_shards_are_asked_for(autoscaler: Any) -> None:
    cluster = autoscaler(most=8)
    resolve_workers(LABEL, num_shards=2)
    assert [len(bundles) for bundles in cluster.asked] == [2]
    resolve_workers(replace(LABEL, num_workers="auto"), num_shards=10)
    assert len(cluster.asked) == 1, "auto takes what is there"


def test_machines_that_do_not_come_are_refused_with_what_came(autoscaler: Any) -> None:
    cluster = autoscaler(most=1)
    with pytest.raises(InputError, match="3 workers x 1 GPUs do not fit, the cluster has 1"):
        resolve_workers(LABEL, num_shards=10)
    assert 600 <= cluster.now < 620
    assert not cluster.groups


def test_without_the_variable_nothing_is_asked_for(autoscaler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = autoscaler(most=8)
    monkeypatch.delenv(WAIT_VARIABLE)
    with pytest.raises(InputError, match="the cluster has 0"):
        resolve_workers(LABEL, num_shards=10)
    assert not cluster.asked


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
def test_the_variable_is_seconds(autoscaler: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(WAIT_VARIABLE, text)
    with pytest.raises(InputError, match=WAIT_VARIABLE):
        resolve_workers(LABEL, num_shards=10)
