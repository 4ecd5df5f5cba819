"""How many labelling workers there are, and what each gets of the cluster."""

from dataclasses import replace

from raylabel.config import LabelConfig
from raylabel.pipeline.cluster_fit import check_pool_fits, live_nodes, num_slots


def resolve_workers(label: LabelConfig, *, num_shards: int) -> LabelConfig:
    """The settings with numbers in place of `num_workers: auto`, which the cluster has room for.

    `auto` is as many workers as the machines have GPUs for, else one for each `num_cpus` CPUs of a machine; the latter
    share all CPUs but one. No more workers than shards.

    Raises:
        InputError: the cluster is too small, or has no GPU where one is asked for.
    """
    resolved = label
    if label.num_workers == "auto":
        each = {"GPU": label.num_gpus} if label.num_gpus > 0 else {"CPU": label.num_cpus or 1}
        resolved = replace(label, num_workers=max(1, num_slots(each)))
        cpus = sum(node.get("CPU", 0.0) for node in live_nodes())
        if label.num_gpus == 0 and cpus > 1:
            assert isinstance(resolved.num_workers, int)
            # Rounded down to what Ray counts in. A cluster of one CPU is refused below with its own figures.
            share = int((cpus - 1) / resolved.num_workers * 10_000) / 10_000
            resolved = replace(resolved, num_cpus=min(label.num_cpus or share, share))
    assert isinstance(resolved.num_workers, int)
    resolved = replace(resolved, num_workers=min(resolved.num_workers, num_shards))
    assert isinstance(resolved.num_workers, int)
    check_pool_fits(num_workers=resolved.num_workers, num_cpus=resolved.num_cpus, num_gpus=resolved.num_gpus)
    return resolved


def torch_threads(label: LabelConfig) -> int:
    """Threads of a worker's model: as many as it was meant to have CPUs."""
    return max(1, round(label.num_cpus))
