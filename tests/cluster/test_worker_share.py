"""The number of workers and the share of each, derived from the cluster's resources."""

from typing import Any

import pytest

from false_cluster import node, set_nodes
from raylabel.cluster.capacity import resolve_workers, torch_threads
from raylabel.config import LabelConfig
from raylabel.errors import InputError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    def has(*machines: dict[str, float]) -> None:
        set_nodes(monkeypatch, *(node(**one) for one in machines), node(CPU=99.0) | {"Alive": False})

    return has


@pytest.mark.parametrize(
    ("resources", "label", "num_workers", "num_cpus"),
    [
        ({"CPU": 2}, LabelConfig(), 2, 0.5),
        ({"CPU": 3}, LabelConfig(), 3, 0.6666),
        ({"CPU": 64}, LabelConfig(), 64, 0.9843),
        ({"CPU": 64}, LabelConfig(num_cpus=4), 16, 3.9375),
        ({"CPU": 2}, LabelConfig(num_workers=1), 1, 1),
        ({"CPU": 32, "GPU": 4}, LabelConfig(num_gpus=1, num_cpus=2), 4, 2),
        ({"CPU": 32, "GPU": 2}, LabelConfig(num_gpus=0.25), 8, 1),
        ({"CPU": 32, "GPU": 4}, LabelConfig(num_gpus=1, num_workers=3), 3, 1),
    ],
)
def test_workers_by_what_there_is(
    cluster: Any, resources: dict[str, float], label: LabelConfig, num_workers: int, num_cpus: float
) -> None:
    cluster(resources)
    found = resolve_workers(label, num_shards=1000)
    assert (found.num_workers, found.num_cpus) == (num_workers, num_cpus)
    assert num_workers * num_cpus <= resources["CPU"] - 1, "one CPU stays free"
    few = resolve_workers(label, num_shards=1)
    assert (few.num_workers, few.num_cpus) == (1, num_cpus)


@pytest.mark.parametrize(
    ("resources", "label", "message"),
    [
        ({"CPU": 1}, LabelConfig(), "1 workers x 1 CPUs must leave one CPU free, the cluster has 1"),
        ({"CPU": 4}, LabelConfig(num_gpus=1), "1 workers x 1 GPUs do not fit, the cluster has 0"),
        ({"CPU": 4, "GPU": 1}, LabelConfig(num_gpus=2), "1 workers x 2 GPUs do not fit, the cluster has 1"),
    ],
)
def test_too_small_a_cluster_is_refused(
    cluster: Any, resources: dict[str, float], label: LabelConfig, message: str
) -> None:
    cluster(resources)
    with pytest.raises(InputError, match=message):
        resolve_workers(label, num_shards=10)


def test_no_worker_spans_two_machines(cluster: Any) -> None:
    cluster({"CPU": 6}, {"CPU": 6})
    found = resolve_workers(LabelConfig(num_cpus=4), num_shards=10)
    assert (found.num_workers, found.num_cpus) == (2, 4)
    cluster({"CPU": 2}, {"CPU": 2})
    found = resolve_workers(LabelConfig(), num_shards=10)
    assert (found.num_workers, found.num_cpus) == (4, 0.5), "with 0.75 CPUs each, neither machine has a whole CPU left"
    with pytest.raises(InputError, match=r"4 workers x 0\.75 CPUs must leave one CPU free, the cluster has 4"):
        resolve_workers(LabelConfig(num_workers=4, num_cpus=0.75), num_shards=10)
    cluster({"CPU": 1}, {"CPU": 1}, {"CPU": 1})
    found = resolve_workers(LabelConfig(), num_shards=10)
    assert (found.num_workers, found.num_cpus) == (2, 1)
    cluster({"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 3})
    assert resolve_workers(LabelConfig(num_gpus=2), num_shards=10).num_workers == 1


def test_memory_limits_the_workers(cluster: Any) -> None:
    cluster({"CPU": 8, "memory": 3.5e9}, {"CPU": 8, "memory": 1.9e9})
    assert resolve_workers(LabelConfig(), num_shards=100).num_workers == 4, "three on one machine, one on the other"
    assert resolve_workers(LabelConfig(memory_gb=0), num_shards=100).num_workers == 16
    assert resolve_workers(LabelConfig(memory_gb=3), num_shards=100).num_workers == 1
    with pytest.raises(InputError) as refused:
        resolve_workers(LabelConfig(num_workers=5), num_shards=100)
    assert str(refused.value) == (
        "label.num_workers: 5 workers x 1 GB of memory do not fit, each on one machine: Ray counts 3.5, 1.9 GB on the "
        "cluster's machines. Set label.num_workers to 4, lower label.memory_gb, or add memory."
    )
    with pytest.raises(InputError, match=r"1 workers x 4 GB of memory do not fit.* machines\. Lower label\.memory_gb"):
        resolve_workers(LabelConfig(memory_gb=4), num_shards=100)


def test_a_models_threads_are_the_cpus_that_were_meant() -> None:
    assert torch_threads(LabelConfig()) == 1
    assert torch_threads(LabelConfig(num_cpus=0.25)) == 1
    assert torch_threads(LabelConfig(num_cpus=4)) == 4
