"""Check a config and its data, and tell what would run, before anything is spent."""

from pathlib import Path
from typing import Any

from raylabel.config import Config
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.errors import InputError
from raylabel.files.storage import list_files
from raylabel.models.saved import load_segmenter
from raylabel.models.segmenter import chosen_layer, is_trainable
from raylabel.redaction import redacted
from raylabel.run.calibration import load_corrector
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder, run_folder, stage_folder
from raylabel.run.labels.disk_need import check_disk
from raylabel.run.labels.manifest import count_pool
from raylabel.stages.preflight import check_teacher_fits, check_writable
from raylabel.stages.states import AGAIN, stage_states
from raylabel.stages.training_jobs import new_segmenter
from raylabel.training.federated import federated_classes


def check_run(config: Config, run: RunFolder | Path | str | None = None) -> dict[str, Any]:
    """Check a config and its data, and tell what would run. Starts no Ray and leaves no file.

    Reads all data and builds both models. Checks that the run folder can be written and that its disk holds the labels.

    Args:
        config: the run's config.
        run: the run folder, a path or a URI. Without it, the config's `out`.

    Returns:
        The splits, classes, pool, disk space, and the state of every stage.

    Raises:
        InputError: anything that would stop the run.

    Examples:
        >>> import raylabel as rl
        >>> # config: the Config of a finished run; run: its folder
        >>> found = rl.check(config, run)
        >>> found["splits"]["labelled"]["num_images"], found["stages"]["label"]
        (12, 'finished')
    """
    run = run_folder(run or config.out)
    check_writable(run)
    data = RunData(config)
    splits = {}
    for name in ("labelled", "calibration", "validation"):
        if name == "calibration" and config.calibration.folds:
            continue
        part = getattr(data, name)
        _check_images_exist(name, part)
        counts = part.class_image_counts()
        splits[name] = {
            "num_images": len(part),
            "num_instances": int(part.class_instance_counts().sum()),
            "num_classes": part.num_classes,
            "num_classes_absent": int((counts == 0).sum()),
            "is_federated": part.is_federated,
        }
    groups = data.frequency_groups.tolist()
    _check_models(config, data.labelled)
    num_images, num_shards = count_pool(run, data, shard_size=config.label.shard_size)
    stages, rounds = stage_states(config, run, data)
    disk = check_disk(config.label, run, num_images=num_images, keeps_labels=stages["label"] != AGAIN)
    return {
        "run": redacted(run.uri),
        "splits": splits,
        "use_of_labels": _use_of_labels(config, data),
        "frequency_groups": {group.value: groups.count(group) for group in FrequencyGroup},
        "pool": {
            "num_images": num_images,
            "num_shards": num_shards,
            "truth_known": data.pool_truth is not None,
        },
        "disk": disk.text(),
        "teacher": _teacher_misfit(run, data),
        "stages": stages,
        "rounds": {str(number): states for number, states in rounds.items()},
    }


def _use_of_labels(config: Config, data: RunData) -> str:
    """Say in one line which annotated images each model learns from."""
    num_labelled, num_folds = len(data.labelled), config.calibration.folds
    teacher = "the teacher is given" if config.teacher.steps == 0 else "the teacher learns from {}"
    if num_folds:
        kept = f"{num_folds} teachers that each miss a fold calibrate"
        return f"{num_labelled} labelled images: {teacher.format('all')}, {kept}, the student learns from all"
    num_kept = len(data.calibration)
    student = "all" if config.student_learns_calibration else f"the teacher's {num_labelled}"
    return (
        f"{num_labelled + num_kept} labelled images: {teacher.format(num_labelled)}, {num_kept} calibrate, the student "
        f"learns from {student}"
    )


def _teacher_misfit(run: RunFolder, data: RunData) -> str | None:
    """Return why the run's teacher or corrector does not fit this labelled set. None if both fit.

    On a misfit, `run` would make both again, and `label` refuses to start.
    """
    if not all(run.artifact(stage_folder(stage)) for stage in ("teacher", "calibrate")):
        return None
    try:
        check_teacher_fits(run, data, load_corrector(run))
    except InputError as misfit:
        return str(misfit)
    return None


def _check_images_exist(name: str, annotated: AnnotatedSet) -> None:
    """Check that the images exist, with one listing per folder because object stores answer slowly."""
    by_folder: dict[str, list[str]] = {}
    for image in annotated.images:
        folder, _, file_name = image.uri.rpartition("/")
        by_folder.setdefault(folder, []).append(file_name)
    for folder, file_names in by_folder.items():
        there = {info.base_name for info in list_files(folder)}
        missing = [file_name for file_name in file_names if file_name not in there]
        if missing:
            raise InputError(
                f"data.{name}: {folder}/{missing[0]}: no such image"
                + (f", and {len(missing) - 1} more are missing in that folder" if len(missing) > 1 else "")
            )


def _check_models(config: Config, labelled: AnnotatedSet) -> None:
    teacher = new_segmenter(config.teacher, num_classes=labelled.num_classes, seed=config.seed)
    names = getattr(teacher, "class_names", None)
    if names is not None and list(names) != list(labelled.class_names):
        there, here = next(pair for pair in zip(names, labelled.class_names, strict=True) if pair[0] != pair[1])
        raise InputError(
            f"teacher.weights: {config.teacher.weights}: its classes must be those of {config.data.labelled} in the "
            f"order of category ids, got {there!r} in place of {here!r}"
        )
    if config.teacher.steps and not is_trainable(teacher):
        raise InputError(f"teacher.model: {config.teacher.model} only predicts. Set teacher.steps: 0.")
    for settings in (config.teacher, config.student):
        federated_classes(labelled, settings.federated_loss)
    embedder = (
        load_segmenter(config.smoothing.embedder, config.own_classes)[0] if config.smoothing.embedder else teacher
    )
    if embedder.embed_layers or config.smoothing.layer:
        chosen_layer(embedder.embed_layers, config.smoothing.layer)
    student = new_segmenter(config.student, num_classes=labelled.num_classes, seed=config.seed)
    if not is_trainable(student):
        raise InputError(f"student.model: {config.student.model} only predicts, so it can't be a student")
