"""Capacity of the cluster: whether the workers of a stage fit, how many there are, and what each one gets.

Workers are counted before they are requested, because Ray waits without a word for resources that it does not have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from raylabel.config import LabelConfig, TrainingConfig
from raylabel.errors import InputError

ROUNDING = 1e-6
"""Three CPUs hold thirty workers of .1."""


READER_CPUS = 0.5
"""Of a process that reads images for a training's worker: it waits for the store half of its time, or more."""


_MANY = 1_000_000
"""Workers that need nothing."""


def check_pool_fits(*, num_workers: int, num_cpus: float, num_gpus: float) -> None:
    """One whole CPU of a machine must stay free beside an actor pool, or Ray Data waits in silence.

    Raises:
        InputError: the cluster is too small; the message names the setting, both figures and what would fit.
    """
    nodes = live_nodes()
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    asked = f"label.num_workers: {num_workers} workers x"
    fitting = _most_workers(num_cpus, nodes)
    if num_workers > fitting:
        raise InputError(
            f"{asked} {num_cpus:g} CPUs must leave one CPU free, the cluster has {cpus:g}; {_remedy(fitting)}"
        )
    if num_workers * num_gpus > gpus:
        raise InputError(
            f"{asked} {num_gpus:g} GPUs asked for, the cluster has {gpus:g}; {_remedy(int(gpus // num_gpus))}"
        )
    slots = num_slots({"CPU": num_cpus, "GPU": num_gpus})
    if slots < num_workers:
        raise InputError(
            f"{asked} {num_cpus:g} CPUs and {num_gpus:g} GPUs asked for, each on one machine; the {len(nodes)} "
            f"machines of the cluster hold {slots}; {_remedy(slots)}"
        )


def _most_workers(num_cpus: float, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers leave a whole CPU free on some machine, however Ray places them."""
    if num_cpus == 0:
        return _MANY
    cpus = [node.get("CPU", 0.0) for node in nodes]
    most = int(max(0.0, sum(cpus) - 1) / num_cpus + ROUNDING)
    held = [int(one / num_cpus + ROUNDING) for one in cpus]
    # With so many a machine of one CPU or more has less than one left; of other machines Ray Data has no use anyway.
    filling = [
        int((one - 1) / num_cpus + ROUNDING) + 1 if one >= 1 else room for one, room in zip(cpus, held, strict=True)
    ]
    if any(enough > room for enough, room in zip(filling, held, strict=True)):
        return most  # there is a machine that they can't fill
    return min(most, sum(filling) - 1)


def live_nodes() -> list[dict[str, float]]:
    """What each machine of the cluster has: resource -> amount."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_slots(each: Mapping[str, float]) -> int:
    """How many workers the cluster's machines hold that need so much each; no worker can be on two machines."""
    wanted = {name: amount for name, amount in each.items() if amount > 0}
    if not wanted:
        return _MANY
    return sum(min(int(node.get(name, 0.0) / wanted[name] + ROUNDING) for name in wanted) for node in live_nodes())


def _remedy(fitting: int) -> str:
    return f"set label.num_workers to {fitting} or add machines" if fitting else "ask for less a worker or add machines"


def decodes_by_tasks(settings: TrainingConfig) -> bool:
    """Whether a training's images are read by Ray Data beside its workers."""
    return settings.decoding == "tasks" or (settings.decoding == "auto" and settings.gpus_per_worker > 0)


def check_workers_fit(name: str, settings: TrainingConfig) -> None:
    """A training's workers must be within the cluster, or as few of them as `min_workers` admits.

    Args:
        name: of the training, for the message.

    Raises:
        InputError: they are not.
    """
    resources = ray.cluster_resources()
    setting = "num_workers" if settings.min_workers is None else "min_workers"
    num_workers = getattr(settings, setting)
    for kind, each in (("CPU", settings.cpus_per_worker), ("GPU", settings.gpus_per_worker)):
        there = resources.get(kind, 0.0)
        if num_workers * each > there:
            raise InputError(
                f"{name}: {num_workers} workers x {each:g} {kind}s asked for, the cluster has {there:g}; set "
                f"{setting} or {kind.lower()}s_per_worker lower, or add machines"
            )
    there, beside = resources.get("CPU", 0.0), settings.cpus_per_worker + READER_CPUS
    if decodes_by_tasks(settings) and num_workers * beside > there:
        raise InputError(
            f"{name}: {num_workers} workers x {settings.cpus_per_worker:g} CPUs, with {READER_CPUS:g} for a reader of "
            f"images beside each, asked for, the cluster has {there:g}; set cpus_per_worker lower, or decoding: threads"
        )


def resolve_workers(label: LabelConfig, *, num_shards: int) -> LabelConfig:
    """The settings with numbers in place of `num_workers: auto`, which the cluster has room for.

    `auto` is as many workers as the machines have GPUs for, else one for each `num_cpus` CPUs of a machine; the latter
    share all CPUs but one a machine. No more workers than shards.

    Raises:
        InputError: the cluster is too small, or has no GPU where one is asked for.
    """
    num_workers, num_cpus = _share(label) if label.num_workers == "auto" else (label.num_workers, label.num_cpus)
    num_workers = min(num_workers, num_shards)
    check_pool_fits(num_workers=num_workers, num_cpus=num_cpus, num_gpus=label.num_gpus)
    return replace(label, num_workers=num_workers, num_cpus=num_cpus)


def _share(label: LabelConfig) -> tuple[int, float]:
    """Workers of `auto`, and the CPUs of each."""
    if label.num_gpus > 0:
        return max(1, num_slots({"GPU": label.num_gpus})), label.num_cpus
    num_workers = max(1, num_slots({"CPU": label.num_cpus or 1}))
    cpus = [node["CPU"] for node in live_nodes() if node.get("CPU", 0.0) >= 1]
    if sum(cpus) <= len(cpus):
        return max(1, num_workers - 1), label.num_cpus  # machines of one CPU: one of them stays free
    # Rounded down to what Ray counts in.
    share = int((sum(cpus) - len(cpus)) / num_workers * 10_000) / 10_000
    return num_workers, min(label.num_cpus or share, share)


def torch_threads(label: LabelConfig) -> int:
    """Threads of a worker's model: as many as it was meant to have CPUs."""
    return max(1, round(label.num_cpus))
