"""Capacity of the cluster: whether a stage's workers fit, how many workers there are, and what each worker gets.

Workers are counted before they are requested, because Ray waits silently for resources that it does not have. If an
autoscaler adds machines, they are waited for first (see `machines`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from raylabel.cluster.machines import wait_for_machines
from raylabel.cluster.memory import GB
from raylabel.config import LabelConfig, TrainingConfig
from raylabel.errors import InputError

ROUNDING = 1e-6
"""Tolerance of divisions, so that three CPUs hold thirty workers of 0.1 CPUs."""


READER_CPUS = 0.5
"""CPUs per reader of a training worker. A reader waits for the store half of its time or more."""


_MANY = 1_000_000
"""Number of workers that fit if a worker needs no resource."""


READER_GB = 0.5
"""Memory per reader of a training worker, in GB (10^9 bytes)."""


def check_pool_fits(*, num_workers: int, num_cpus: float, num_gpus: float, memory_gb: float = 0.0) -> None:
    """Check that an actor pool fits and leaves one whole CPU free on some machine, else Ray Data waits silently.

    Raises:
        InputError: the cluster is too small. The message names the setting, both figures and what would fit.
    """
    nodes = live_nodes()
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    asked = f"label.num_workers: {num_workers} workers x"
    fitting = _most_workers(num_cpus, nodes)
    if num_workers > fitting:
        raise InputError(
            f"{asked} {num_cpus:g} CPUs must leave one CPU free, the cluster has {cpus:g}. {_remedy(fitting)}"
        )
    if num_workers * num_gpus > gpus:
        raise InputError(
            f"{asked} {num_gpus:g} GPUs do not fit, the cluster has {gpus:g}. {_remedy(int(gpus // num_gpus))}"
        )
    slots = num_slots({"CPU": num_cpus, "GPU": num_gpus})
    if slots < num_workers:
        raise InputError(
            f"{asked} {num_cpus:g} CPUs and {num_gpus:g} GPUs do not fit, each on one machine: the {len(nodes)} "
            f"machines of the cluster hold {slots}. {_remedy(slots)}"
        )
    slots = num_slots({"CPU": num_cpus, "GPU": num_gpus, "memory": memory_gb * GB})
    if slots < num_workers:
        remedy = f"Set label.num_workers to {slots}, lower" if slots else "Lower"
        raise InputError(
            f"{asked} {memory_gb:g} GB of memory do not fit, each on one machine: Ray counts "
            f"{', '.join(f'{_memory(node) / GB:.3g}' for node in nodes)} GB on the cluster's machines. {remedy} "
            "label.memory_gb, or add memory."
        )


def _memory(node: Mapping[str, float]) -> float:
    """Return the bytes that Ray counts on a machine: its memory without the object store and the system's share."""
    return node.get("memory", math.inf)


def _most_workers(num_cpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the largest number of workers that leaves a whole CPU free on some machine, however Ray places them."""
    if num_cpus == 0:
        return _MANY
    cpus = [node.get("CPU", 0.0) for node in nodes]
    most = int(max(0.0, sum(cpus) - 1) / num_cpus + ROUNDING)
    held = [int(one / num_cpus + ROUNDING) for one in cpus]
    # `filling[i]` is the smallest number of workers that leaves machine i with less than one free CPU. Machines with
    # less than one CPU cannot run Ray Data's tasks and do not count.
    filling = [
        int((one - 1) / num_cpus + ROUNDING) + 1 if one >= 1 else room for one, room in zip(cpus, held, strict=True)
    ]
    if any(enough > room for enough, room in zip(filling, held, strict=True)):
        return most  # because workers can't fill every machine
    return min(most, sum(filling) - 1)


def live_nodes() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster: resource -> amount."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_slots(each: Mapping[str, float]) -> int:
    """Count the workers with the resources `each` that the cluster's machines hold. A worker needs one machine."""
    wanted = {name: amount for name, amount in each.items() if amount > 0}
    if not wanted:
        return _MANY
    return sum(
        min(int(min(_amount(node, name) / wanted[name], _MANY) + ROUNDING) for name in wanted) for node in live_nodes()
    )


def wait_for_workers(num_workers: int, *, cpus: float, gpus: float, memory_gb: float) -> None:
    """Wait for the machines of these workers, if an autoscaler adds some. The last three arguments are per worker."""
    each = {"CPU": cpus, "GPU": gpus, "memory": memory_gb * GB}
    wait_for_machines(num_workers, each, num_slots=lambda: num_slots(each))


def _amount(node: Mapping[str, float], name: str) -> float:
    return _memory(node) if name == "memory" else node.get(name, 0.0)


def _remedy(fitting: int) -> str:
    return (
        f"Set label.num_workers to {fitting}, or add machines."
        if fitting
        else "Lower label.num_cpus or label.num_gpus, or add machines."
    )


def decodes_by_tasks(settings: TrainingConfig) -> bool:
    """Whether Ray Data reads a training's images outside of the training workers."""
    return settings.decoding == "tasks" or (settings.decoding == "auto" and settings.gpus_per_worker > 0)


def check_workers_fit(name: str, settings: TrainingConfig) -> None:
    """Check that a training's workers fit the cluster. With `min_workers`, that many must fit.

    Args:
        name: name of the training, for the message.
        settings: the training's settings.

    Raises:
        InputError: the workers do not fit.
    """
    gb = settings.memory_gb_per_worker
    wait_for_workers(settings.num_workers, cpus=settings.cpus_per_worker, gpus=settings.gpus_per_worker, memory_gb=gb)
    resources = ray.cluster_resources()
    setting = "num_workers" if settings.min_workers is None else "min_workers"
    num_workers = getattr(settings, setting)
    for kind, each in (("CPU", settings.cpus_per_worker), ("GPU", settings.gpus_per_worker)):
        there = resources.get(kind, 0.0)
        if num_workers * each > there:
            raise InputError(
                f"{name}: {num_workers} workers x {each:g} {kind}s do not fit, the cluster has {there:g}. Lower "
                f"{setting} or {kind.lower()}s_per_worker, or add machines."
            )
    there = num_slots({"CPU": settings.cpus_per_worker, "memory": settings.memory_gb_per_worker * GB})
    if num_workers > there:
        raise InputError(
            f"{name}: {num_workers} workers x {settings.memory_gb_per_worker:g} GB of memory do not fit, each on one "
            f"machine: the cluster holds {there}. Lower {setting} or memory_gb_per_worker, or add memory."
        )
    there, beside = resources.get("CPU", 0.0), settings.cpus_per_worker + READER_CPUS
    if decodes_by_tasks(settings) and num_workers * beside > there:
        raise InputError(
            f"{name}: {num_workers} workers x {settings.cpus_per_worker:g} CPUs, and {READER_CPUS:g} CPUs per worker "
            f"for a reader, do not fit, the cluster has {there:g}. Lower cpus_per_worker, or set decoding: threads."
        )


def resolve_workers(label: LabelConfig, *, num_shards: int) -> LabelConfig:
    """Replace `num_workers: auto` by a number that fits the cluster.

    With GPUs, `auto` is as many workers as the machines have GPUs for. Without GPUs, it is one worker per `num_cpus`
    CPUs of a machine, and the workers share all CPUs but one per machine. There are no more workers than shards, and no
    more than the machines' memory holds.

    Raises:
        InputError: the cluster is too small, or has too few GPUs or too little memory.
    """
    asked = 1 if label.num_workers == "auto" else min(label.num_workers, num_shards)
    wait_for_workers(asked, cpus=label.num_cpus, gpus=label.num_gpus, memory_gb=label.memory_gb)
    num_workers, num_cpus = _share(label) if label.num_workers == "auto" else (label.num_workers, label.num_cpus)
    if label.num_workers == "auto":
        each = {"CPU": num_cpus, "GPU": label.num_gpus, "memory": label.memory_gb * GB}
        num_workers = min(num_workers, max(1, num_slots(each)))
    num_workers = min(num_workers, num_shards)
    check_pool_fits(num_workers=num_workers, num_cpus=num_cpus, num_gpus=label.num_gpus, memory_gb=label.memory_gb)
    return replace(label, num_workers=num_workers, num_cpus=num_cpus)


def _share(label: LabelConfig) -> tuple[int, float]:
    """Return the number of workers for `auto`, and the CPUs per worker."""
    if label.num_gpus > 0:
        return max(1, num_slots({"GPU": label.num_gpus})), label.num_cpus
    num_workers = max(1, num_slots({"CPU": label.num_cpus or 1}))
    cpus = [node["CPU"] for node in live_nodes() if node.get("CPU", 0.0) >= 1]
    if sum(cpus) <= len(cpus):
        return max(1, num_workers - 1), label.num_cpus  # because one of the one-CPU machines must stay free
    # Rounded down, because Ray counts in steps of 0.0001.
    share = int((sum(cpus) - len(cpus)) / num_workers * 10_000) / 10_000
    return num_workers, min(label.num_cpus or share, share)


def torch_threads(label: LabelConfig) -> int:
    """Return the number of threads of a worker's model: its configured CPUs, at least 1."""
    return max(1, round(label.num_cpus))
