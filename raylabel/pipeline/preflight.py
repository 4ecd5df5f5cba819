"""What would stop a run, found before anything is spent: of the cluster, the run folder, and the classes.

Each refusal is one line: what was asked for, what there is, and what to do. Workers are counted in `cluster_fit`, disk
space in `disk_need`.
"""

import socket
import uuid
from collections.abc import Collection
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylabel.calibration import Corrector, Detections
from raylabel.config import Config, StudentConfig, TeacherConfig
from raylabel.errors import InputError, StorageError
from raylabel.pipeline.cluster_fit import check_workers_fit
from raylabel.pipeline.data import RunClasses, RunData, load_classes
from raylabel.pipeline.disk_need import nearest_folder
from raylabel.pipeline.stage import finished
from raylabel.pipeline.worker_share import resolve_workers
from raylabel.storage import RunFolder, commit_bytes, exists, join, read_json, remove

NODE_SECONDS = 60.0
"""A node that has not answered by then has nothing free."""


def check_cluster(config: Config, run: RunFolder, stages: Collection[str], *, num_shards: int) -> None:
    """All that these stages ask of the cluster, which must be joined.

    Args:
        num_shards: of the pool; there are no more labelling workers than shards.

    Raises:
        InputError: a stage's workers don't fit, or as of `check_nodes`.
    """
    label, gpus = config.label, [0.0]
    for training, its_stages in (("teacher", {"prototypes", "teacher"}), ("student", {"distill"})):
        settings: TeacherConfig | StudentConfig = getattr(config, training)
        if its_stages & set(stages) and settings.steps:
            check_workers_fit(training, settings)
            gpus.append(settings.gpus_per_worker)
    if {"prototypes", "calibrate", "label", "evaluate"} & set(stages):
        resolve_workers(label, num_shards=num_shards)
        gpus.append(label.num_gpus)
    check_nodes(run, uses_gpus=max(gpus) > 0)


@dataclass(frozen=True, kw_only=True)
class _NodeReport:
    """What a worker found on its node.

    Attributes:
        host: its name.
        sees_run: whether the driver's file is there.
        num_cuda_devices: GPUs that torch can use.
        torch_cuda: CUDA version of torch's build, None of one for CPUs.
    """

    host: str
    sees_run: bool
    num_cuda_devices: int
    torch_cuda: str | None


@ray.remote(num_cpus=0)
def _look_around(probe_uri: str) -> _NodeReport:
    import torch  # takes seconds to load, which a driver without GPUs needn't wait

    return _NodeReport(
        host=socket.gethostname(),
        sees_run=exists(probe_uri),
        num_cuda_devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        torch_cuda=torch.version.cuda,
    )


def check_nodes(run: RunFolder, *, uses_gpus: bool) -> None:
    """Every node that works must see the run folder, and torch on it the GPUs that Ray counts there.

    A cluster of one node without GPUs has nothing to be asked.

    Raises:
        InputError: a node does not; the message names it.
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
                # Ray hides all GPUs from a task that asks for none.
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
                    f"{gpus[node['NodeID']]:g} GPUs there); end what else runs on it, or try again"
                ) from None
            _check_report(report, run, num_gpus=gpus[node["NodeID"]])
    finally:
        remove(probe_uri)


def _check_report(report: _NodeReport, run: RunFolder, *, num_gpus: float) -> None:
    if not report.sees_run:
        raise InputError(
            f"{report.host}: does not see the run folder {run.uri}; give --out as a URI, or on a disk that every node "
            "mounts"
        )
    if num_gpus and not report.num_cuda_devices:
        build = f"torch is built for CUDA {report.torch_cuda}" if report.torch_cuda else "torch is built for CPUs"
        raise InputError(
            f"{report.host}: Ray counts {num_gpus:g} GPUs there, torch sees none ({build}); repair the driver or "
            "install torch for CUDA, or set label.num_gpus and gpus_per_worker to 0"
        )


def check_writable(run: RunFolder) -> None:
    """Write and remove a file where the run is, or would be: on a local disk in the nearest folder that exists.

    Raises:
        InputError: it can't be written; the message says why.
    """
    probe_uri = join(nearest_folder(run.uri), f".probe-{uuid.uuid4().hex}")
    try:
        commit_bytes(probe_uri, b"")
        remove(probe_uri)
    except (OSError, InputError, StorageError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{run.uri}: can't be written ({reason}); give an --out that this user may write") from error


def check_teacher_fits(run: RunFolder, data: RunData, corrector: Corrector) -> None:
    """Labelled file, classes, teacher and corrector of a run must be of the same classes.

    Raises:
        InputError: they are not; the message says which and what to run again.
    """
    classes = load_classes(run)
    # A labelled file is large: it is read only where it is another one than the teacher learnt from.
    if finished(run, "teacher").get("inputs", {}).get("labelled") != data.labelled_digest:
        _check_same_classes(run, classes, data)
    description = run.path("teacher", "model.json")
    num_classes = read_json(description)["num_classes"]
    if num_classes != classes.num_classes:
        raise InputError(
            f"{description}: the teacher has {num_classes} classes, the labelled set {classes.num_classes}; "
            "run teacher again"
        )
    try:
        corrector(Detections.of_scores([], [], num_classes=classes.num_classes))
    except ValueError as error:
        raise InputError(f"{run.path('calibration', 'corrector.json')}: {error}; run calibrate again") from error


def _check_same_classes(run: RunFolder, classes: RunClasses, data: RunData) -> None:
    now = {one.category_id: one.name for one in data.labelled.categories}
    then = dict(zip(classes.category_ids.tolist(), classes.names, strict=True))
    for category_id in sorted(now.keys() | then.keys()):
        if now.get(category_id) != then.get(category_id):
            raise InputError(
                f"{data.config.data.labelled}: category {category_id} is {now.get(category_id, 'none')!r}, in "
                f"{run.path('classes.json')} {then.get(category_id, 'none')!r}: the labelled file has changed; give "
                "the old one, or do all stages again with raylabel run"
            )
