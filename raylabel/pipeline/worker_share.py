"""How many labelling workers there are, and what each gets of the cluster."""

from dataclasses import replace

import ray

from raylabel.config import LabelConfig
from raylabel.pipeline.cluster_fit import check_pool_fits


def resolve_workers(label: LabelConfig, *, num_shards: int) -> LabelConfig:
    """The settings with numbers in place of `num_workers: auto`, which the cluster has room for.

    `auto` is as many workers as there are GPUs for, else one for each `num_cpus` CPUs of the cluster; the latter share
    all CPUs but one. No more workers than shards.

    Raises:
        InputError: the cluster is too small, or has no GPU where one is asked for.
    """
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if label.num_workers != "auto":
        resolved = replace(label, num_workers=min(label.num_workers, num_shards))
    elif label.num_gpus > 0:
        resolved = replace(label, num_workers=min(max(1, int(gpus / label.num_gpus)), num_shards))
    else:
        num_workers = max(1, int(cpus / (label.num_cpus or 1)))
        # Rounded down to what Ray counts in. A cluster of one CPU is refused below with its own figures.
        num_cpus = int((cpus - 1) / num_workers * 10_000) / 10_000 if cpus > 1 else label.num_cpus
        resolved = replace(label, num_workers=min(num_workers, num_shards), num_cpus=num_cpus)
    assert isinstance(resolved.num_workers, int)
    check_pool_fits(num_workers=resolved.num_workers, num_cpus=resolved.num_cpus, num_gpus=resolved.num_gpus)
    return resolved


def torch_threads(label: LabelConfig) -> int:
    """Threads of a worker's model: as many as it was meant to have CPUs."""
    return max(1, round(label.num_cpus))
