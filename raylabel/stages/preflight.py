"""What would stop a run, found before anything is spent: of the cluster, the run folder, and the classes.

Each refusal is one line: what was asked for, what there is, and what to do. `cluster.capacity` counts workers,
`run.labels.disk_need` disk space.
"""

import uuid
from collections.abc import Collection

from raylabel.calibration import Corrector, Detections
from raylabel.cluster.capacity import check_workers_fit, resolve_workers
from raylabel.cluster.nodes import check_nodes
from raylabel.config import Config, StudentConfig, TeacherConfig
from raylabel.errors import InputError, StorageError
from raylabel.files.storage import commit_bytes, join, remove
from raylabel.run.calibration import corrector_uri
from raylabel.run.classes import RunClasses, classes_uri, load_classes
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.disk_need import nearest_folder
from raylabel.run.models import TEACHER, description_uri, num_model_classes
from raylabel.run.stage import finished


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
    num_classes = num_model_classes(run, TEACHER)
    if num_classes != classes.num_classes:
        raise InputError(
            f"{description_uri(run, TEACHER)}: the teacher has {num_classes} classes, the labelled set "
            f"{classes.num_classes}; run teacher again"
        )
    try:
        corrector(Detections.of_scores([], [], num_classes=classes.num_classes))
    except ValueError as error:
        raise InputError(f"{corrector_uri(run)}: {error}; run calibrate again") from error


def _check_same_classes(run: RunFolder, classes: RunClasses, data: RunData) -> None:
    now = {one.category_id: one.name for one in data.labelled.categories}
    then = dict(zip(classes.category_ids.tolist(), classes.names, strict=True))
    for category_id in sorted(now.keys() | then.keys()):
        if now.get(category_id) != then.get(category_id):
            raise InputError(
                f"{data.config.data.labelled}: category {category_id} is {now.get(category_id, 'none')!r}, in "
                f"{classes_uri(run)} {then.get(category_id, 'none')!r}: the labelled file has changed; give "
                "the old one, or do all stages again with raylabel run"
            )
