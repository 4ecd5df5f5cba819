"""Workers must fit the cluster. The refusal is one line with both figures and the remedy."""

from dataclasses import replace

import pytest

from false_cluster import node, set_nodes
from raylabel.cluster.capacity import check_pool_fits, check_workers_fit
from raylabel.config import Config
from raylabel.errors import InputError


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((7, 1, 0), None),
        ((8, 1, 0), "8 workers x 1 CPUs must leave one CPU free, the cluster has 8. Set label.num_workers to 7, or"),
        ((1, 9, 0), "1 workers x 9 CPUs must leave one CPU free, the cluster has 8. Lower label.num_cpus or"),
        ((2, 1, 1), None),
        ((3, 1, 1), "3 workers x 1 GPUs do not fit, the cluster has 2. Set label.num_workers to 2, or"),
        ((4, 0, 0.5), None),
        ((60, 0.1, 0), None),
        ((1, 6, 0), None),
        (
            (2, 3, 1),
            "2 workers x 3 CPUs and 1 GPUs do not fit, each on one machine: the 2 machines of the cluster hold 0",
        ),
        ((1, 7, 0), "1 workers x 7 CPUs and 0 GPUs do not fit, each on one machine"),
    ],
)
def test_pool_fits(asked: tuple[int, float, float], message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster has a machine of 6 CPUs, and one of 2 CPUs and 2 GPUs. A third machine is gone."""
    set_nodes(monkeypatch, node(CPU=6.0), node(CPU=2.0, GPU=2.0), node(CPU=64.0, GPU=8.0) | {"Alive": False})
    num_workers, num_cpus, num_gpus = asked
    if message is None:
        check_pool_fits(num_workers=num_workers, num_cpus=num_cpus, num_gpus=num_gpus)
        return
    with pytest.raises(InputError) as refused:
        check_pool_fits(num_workers=num_workers, num_cpus=num_cpus, num_gpus=num_gpus)
    assert f"label.num_workers: {message}" in str(refused.value)
    assert "add machines" in str(refused.value)


def test_workers_of_a_training_fit(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, node(CPU=2.0, GPU=1.0))
    settings = replace(config.teacher, num_workers=2, cpus_per_worker=1.0)
    check_workers_fit("teacher", settings)
    with pytest.raises(
        InputError, match=r"teacher: 2 workers x 1 GPUs do not fit, the cluster has 1\. .*gpus_per_worker"
    ):
        check_workers_fit("teacher", replace(settings, gpus_per_worker=1.0))
    with pytest.raises(InputError, match=r"teacher: 3 workers x 1 CPUs do not fit, .*\. Lower num_workers or"):
        check_workers_fit("teacher", replace(settings, num_workers=3))
    check_workers_fit("teacher", replace(settings, num_workers=3, min_workers=2))
    with pytest.raises(InputError, match=r"teacher: 3 workers x 1 CPUs do not fit, .*\. Lower min_workers or"):
        check_workers_fit("teacher", replace(settings, num_workers=4, min_workers=3))


def test_readers_of_images_fit_beside_the_workers(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, node(CPU=2.0, GPU=2.0))
    settings = replace(config.teacher, num_workers=2, cpus_per_worker=1.0, gpus_per_worker=1.0)
    with pytest.raises(
        InputError, match=r"2 workers x 1 CPUs, and 0.5 CPUs per worker .* has 2\. .* decoding: threads"
    ):
        check_workers_fit("teacher", settings)
    check_workers_fit("teacher", replace(settings, cpus_per_worker=0.5))
    check_workers_fit("teacher", replace(settings, decoding="threads"))


def test_training_workers_fit_the_memory(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    set_nodes(monkeypatch, node(CPU=8.0, memory=2.5e9), node(CPU=8.0, memory=1.5e9))
    settings = replace(config.teacher, num_workers=3)
    check_workers_fit("teacher", settings)
    with pytest.raises(
        InputError, match=r"teacher: 3 workers x 1\.5 GB of memory do not fit, .* holds 2\. .*memory_gb_per_worker"
    ):
        check_workers_fit("teacher", replace(settings, memory_gb_per_worker=1.5))
    check_workers_fit("teacher", replace(settings, memory_gb_per_worker=1.5, min_workers=2))
