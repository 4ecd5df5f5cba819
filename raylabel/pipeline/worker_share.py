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
    resolved = label
    if label.num_workers == "auto":
        each = {"GPU": label.num_gpus} if label.num_gpus > 0 else {"CPU": label.num_cpus or 1}
        num_workers = max(1, num_slots(each))
        resolved = replace(label, num_workers=num_workers)
        cpus = [node["CPU"] for node in live_nodes() if node.get("CPU", 0.0) >= 1]
        if label.num_gpus == 0 and sum(cpus) > len(cpus):
            # Rounded down to what Ray counts in.
            share = int((sum(cpus) - len(cpus)) / num_workers * 10_000) / 10_000
            resolved = replace(resolved, num_cpus=min(label.num_cpus or share, share))
        elif label.num_gpus == 0 and len(cpus) > 1:
            resolved = replace(resolved, num_workers=num_workers - 1)  # machines of one CPU: one of them stays free
    assert isinstance(resolved.num_workers, int)
    resolved = replace(resolved, num_workers=min(resolved.num_workers, num_shards))
    assert isinstance(resolved.num_workers, int)
    check_pool_fits(num_workers=resolved.num_workers, num_cpus=resolved.num_cpus, num_gpus=resolved.num_gpus)
    return resolved


def torch_threads(label: LabelConfig) -> int:
    """Threads of a worker's model: as many as it was meant to have CPUs."""
    return max(1, round(label.num_cpus))
