"""The worker groups of k8s/ that hold a run's workers, and the component of kustomize that gives them their size."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from raylabel.config import Config, LabelConfig, TrainingConfig
from raylabel.plan.figures import value

CPU_GROUP_CPUS, CPU_GROUP_PODS = 8, 4
"""CPUs per pod and most pods of k8s/base's group of CPU pods."""

GROUPS = ("cpu", "gpu")
"""The worker groups in the order of k8s/, once k8s/components/gpu has added the second."""


@dataclass(frozen=True, kw_only=True)
class PodPlan:
    """A group of pods. Memory is in GiB, and all but `pods` is per pod."""

    group: str
    pods: int
    cpus: int
    gpus: int
    memory_gib: int


def worker_groups(config: Config, gpus: int, workers: int) -> list[PodPlan]:
    """Return the groups of pods that hold every stage's workers. A CPU stays free in the first."""
    label, trainings = config.label, (config.teacher, config.student)
    on_gpus = [one for one in trainings if one.gpus_per_worker]
    on_cpus = [one for one in trainings if not one.gpus_per_worker]
    each = [one.cpus_per_worker for one in on_cpus] + ([] if label.num_gpus else [max(label.num_cpus, 0.5)])
    cpus = max(CPU_GROUP_CPUS, math.ceil(max(each, default=0)) + 1)
    totals = [one.num_workers * one.cpus_per_worker for one in on_cpus]
    totals += [] if label.num_gpus else [workers * max(label.num_cpus, 0.5)]
    pods = max(CPU_GROUP_PODS, math.ceil((max(totals, default=0) + 1) / (cpus - max(each, default=0))))
    labelling = 0 if label.num_gpus else math.ceil(cpus / max(label.num_cpus, 0.5))
    groups = [_pod("cpu", pods, cpus, 0, _memory_gb(label, labelling, on_cpus))]
    trained = max((math.ceil(one.num_workers * one.gpus_per_worker) for one in on_gpus), default=0)
    if max(gpus, trained):
        per_pod = math.ceil(max(label.num_gpus, *(one.gpus_per_worker for one in trainings)))
        labelling = int(per_pod / label.num_gpus + 1e-6) if label.num_gpus else 0
        own = [label.num_cpus * labelling]
        own += [one.cpus_per_worker * int(per_pod / one.gpus_per_worker + 1e-6) for one in on_gpus]
        pods = math.ceil(max(gpus, trained) / per_pod)
        own_cpus = math.ceil(max(own) + value("decoding_cpus"))
        groups.append(_pod("gpu", pods, own_cpus, per_pod, _memory_gb(label, labelling, on_gpus)))
    return groups


def groups_component(groups: Sequence[PodPlan], *, num_images: int) -> str:
    """Return a component of kustomize that gives k8s/'s worker groups these sizes.

    It is listed behind k8s/components/gpu and before the component with the job.
    """
    operations: list[dict[str, Any]] = []
    for one in groups:
        path = f"/spec/workerGroupSpecs/{GROUPS.index(one.group)}"
        resources = {"cpu": str(one.cpus), "memory": f"{one.memory_gib}Gi"}
        if one.gpus:
            resources["nvidia.com/gpu"] = str(one.gpus)
        place = f"{path}/template/spec/containers/0/resources"
        operations += [
            {"op": "test", "path": f"{path}/groupName", "value": one.group},
            {"op": "replace", "path": f"{path}/maxReplicas", "value": one.pods},
            {"op": "replace", "path": place, "value": {"requests": resources, "limits": dict(resources)}},
        ]
    return (
        f"# Worker groups for {num_images:,} images, written by `raylabel plan` (docs/clusters.md).\n"
        "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches:\n"
        "  - target: {kind: RayCluster}\n    patch: |\n"
        + textwrap.indent(yaml.safe_dump(operations, sort_keys=False), " " * 6)
    )


def _memory_gb(label: LabelConfig, labelling: int, trainings: Sequence[TrainingConfig]) -> float:
    """Return the memory of a machine that holds some labelling workers, or a worker of a training, in GB."""
    least = value("process_gb")
    needs = [labelling * max(label.memory_gb, least)]
    needs += [max(one.memory_gb_per_worker, least) + value("reader_gb") for one in trainings]
    return max(needs) / value("counted_memory")


def _pod(group: str, pods: int, cpus: int, gpus: int, memory_gb: float) -> PodPlan:
    memory = max(cpus * value("gpu_pod_gib" if gpus else "cpu_pod_gib"), memory_gb * 1e9 / 2**30)
    return PodPlan(group=group, pods=pods, cpus=cpus, gpus=gpus, memory_gib=math.ceil(memory))
