"""Checks of the cluster, the run folder and the classes, made before anything is spent.

Each refusal is one line: the requirement, the actual value, and the remedy. `cluster.capacity` counts workers,
`run.labels.disk_need` counts disk space.
"""

import uuid
from collections.abc import Collection

from raylabel.calibration import Corrector, Detections
from raylabel.cluster.capacity import check_workers_fit, resolve_workers
from raylabel.cluster.nodes import check_nodes
from raylabel.config import Config, StudentConfig, TeacherConfig
from raylabel.errors import InputError, StorageError
from raylabel.files.committing import commit_bytes
from raylabel.files.moving import remove
from raylabel.files.paths import join
from raylabel.run.calibration import corrector_uri
from raylabel.run.classes import RunClasses, classes_uri, load_classes
from raylabel.run.data import RunData
from raylabel.run.folder import STAGES, RunFolder
from raylabel.run.labels.disk_need import nearest_folder
from raylabel.run.models import TEACHER, description_uri, num_model_classes
from raylabel.run.stage import finished


def check_cluster(config: Config, run: RunFolder, stages: Collection[str], *, num_shards: int) -> None:
    """Check that the cluster has what these stages ask for. The process must be connected to it.

    Args:
        config: the run's config.
        run: the run folder.
        stages: names of the stages that would run.
        num_shards: shards of the pool. No more workers than shards label the pool.

    Raises:
        InputError: a stage's workers don't fit, or `check_nodes` refuses a machine.
    """
    specs, gpus = [spec for spec in STAGES if spec.name in stages], [0.0]
    for training in dict.fromkeys(spec.trains for spec in specs if spec.trains):
        settings: TeacherConfig | StudentConfig = getattr(config, training)
        if settings.steps:
            check_workers_fit(training, settings)
            gpus.append(settings.gpus_per_worker)
    if any(spec.predicts for spec in specs):
        resolve_workers(config.label, num_shards=num_shards)
        gpus.append(config.label.num_gpus)
    check_nodes(run, uses_gpus=max(gpus) > 0)


def check_writable(run: RunFolder) -> None:
    """Write and remove a file in the run folder. On a local disk, the nearest existing folder is tried.

    Raises:
        InputError: the folder can't be written. The message says why.
    """
    probe_uri = join(nearest_folder(run.uri), f".probe-{uuid.uuid4().hex}")
    try:
        commit_bytes(probe_uri, b"")
        remove(probe_uri)
    except (OSError, InputError, StorageError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{run.uri}: can't be written ({reason}). Give an --out that this user may write.") from error


def check_teacher_fits(run: RunFolder, data: RunData, corrector: Corrector) -> None:
    """Check that labelled file, classes.json, teacher and corrector of a run have the same classes.

    Raises:
        InputError: their classes differ. The message names the file and the stage to run again.
    """
    classes = load_classes(run)
    # The labelled file is read only if it is not the teacher's, because it is large.
    if finished(run, "teacher").get("inputs", {}).get("labelled") != data.labelled_digest:
        _check_same_classes(run, classes, data)
    num_classes = num_model_classes(run, TEACHER)
    if num_classes != classes.num_classes:
        raise InputError(
            f"{description_uri(run, TEACHER)}: the teacher must have the labelled set's {classes.num_classes} "
            f"classes, got {num_classes}. Run teacher again."
        )
    try:
        corrector(Detections.of_scores([], [], num_classes=classes.num_classes))
    except ValueError as error:
        raise InputError(f"{corrector_uri(run)}: {error}. Run calibrate again.") from error


def _check_same_classes(run: RunFolder, classes: RunClasses, data: RunData) -> None:
    now = {one.category_id: one.name for one in data.labelled.categories}
    then = dict(zip(classes.category_ids.tolist(), classes.names, strict=True))
    for category_id in sorted(now.keys() | then.keys()):
        if now.get(category_id) != then.get(category_id):
            raise InputError(
                f"{data.config.data.labelled_file}: the labelled file has changed: category {category_id} must be "
                f"{then.get(category_id, 'none')!r} as in {classes_uri(run)}, got {now.get(category_id, 'none')!r}. "
                "Give the old file, or run all stages again with raylabel run."
            )
