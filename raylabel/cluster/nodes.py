"""Check every machine of a cluster before work begins: whether it sees the run folder and can use its GPUs."""

import socket
import uuid
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.moving import remove
from raylabel.files.paths import join
from raylabel.files.reading import exists
from raylabel.run.folder import RunFolder

NODE_SECONDS = 60.0
"""Seconds after which a node that has not answered counts as busy."""


@dataclass(frozen=True, kw_only=True)
class _NodeReport:
    """The facts that a worker found on its node.

    Attributes:
        host: name of the node.
        sees_run: whether the node sees the driver's file.
        num_cuda_devices: GPUs that torch can use.
        torch_cuda: CUDA version of torch's build, None for a build without CUDA.
    """

    host: str
    sees_run: bool
    num_cuda_devices: int
    torch_cuda: str | None


@ray.remote(num_cpus=0)
def _look_around(probe_uri: str) -> _NodeReport:
    import torch  # here, because torch takes seconds to load and the driver needs none

    return _NodeReport(
        host=socket.gethostname(),
        sees_run=exists(probe_uri),
        num_cuda_devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        torch_cuda=torch.version.cuda,
    )


def check_nodes(run: RunFolder, *, uses_gpus: bool) -> None:
    """Check that every node with CPUs sees the run folder, and that its torch sees the GPUs that Ray counts there.

    A cluster of one node without GPUs is not checked.

    Raises:
        InputError: a node fails the check. The message names the node.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    gpus = {node["NodeID"]: node["Resources"].get("GPU", 0.0) if uses_gpus else 0.0 for node in nodes}
    if len(nodes) < 2 and not any(gpus.values()):
        return
    probe_uri = join(run.uri, f".probe-{uuid.uuid4().hex}")
    commit_bytes(probe_uri, b"")
    try:
        asked = [
            _look_around.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                # A small share of a GPU, because Ray hides all GPUs from a task that asks for none.
                num_gpus=0.01 if gpus[node["NodeID"]] else 0,
            ).remote(probe_uri)
            for node in nodes
        ]
        for node, answer in zip(nodes, asked, strict=True):
            try:
                report = ray.get(answer, timeout=NODE_SECONDS)
            except GetTimeoutError:
                raise InputError(
                    f"{node['NodeManagerHostname']}: no answer within {NODE_SECONDS:g} s (Ray counts "
                    f"{gpus[node['NodeID']]:g} GPUs there). End other work on this machine, or try again."
                ) from None
            _check_report(report, run, num_gpus=gpus[node["NodeID"]])
    finally:
        remove(probe_uri)


def _check_report(report: _NodeReport, run: RunFolder, *, num_gpus: float) -> None:
    if not report.sees_run:
        raise InputError(
            f"{report.host}: does not see the run folder {run.uri}. Give --out as a URI, or on a disk that every "
            "machine mounts."
        )
    if num_gpus and not report.num_cuda_devices:
        build = f"torch is built for CUDA {report.torch_cuda}" if report.torch_cuda else "torch is built for CPUs"
        raise InputError(
            f"{report.host}: Ray counts {num_gpus:g} GPUs there, torch sees none ({build}). Repair the driver, "
            "install torch for CUDA, or set label.num_gpus and gpus_per_worker to 0."
        )
