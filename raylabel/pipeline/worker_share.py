"""How many labelling workers there are, and what each gets of the cluster."""

from dataclasses import replace

from raylabel.config import LabelConfig
from raylabel.pipeline.cluster_fit import check_pool_fits, live_nodes, num_slots


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
