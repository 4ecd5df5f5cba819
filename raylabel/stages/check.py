"""Check a config and its data, and tell what would run, before anything is spent."""

import statistics
from pathlib import Path
from typing import Any

from raylabel.config import Config, TeacherConfig
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.containers import split_reference
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.dataset.image_headers import check_headers
from raylabel.dataset.inspection import inspect_annotations
from raylabel.dataset.pool.left_out import LeftOut
from raylabel.errors import InputError
from raylabel.files.storage import exists, list_files, split
from raylabel.models.saved import load_segmenter
from raylabel.models.segmenter import chosen_layer, is_trainable
from raylabel.progress import Progress
from raylabel.redaction import redacted
from raylabel.run.calibration import load_corrector, other_corrector
from raylabel.run.data import RunData, overlap, truth_match
from raylabel.run.folder import RunFolder, run_folder, stage_folder
from raylabel.run.labels.disk_need import check_disk
from raylabel.run.labels.manifest import count_pool
from raylabel.stages.preflight import check_teacher_fits, check_writable
from raylabel.stages.states import AGAIN, stage_states
from raylabel.stages.training_jobs import new_segmenter
from raylabel.training.federated import federated_classes

LARGEST_TINY_SIDE = 256
"""Median side in pixels of images that the default model still learns something from, without pretrained weights."""


def check_run(config: Config, run: RunFolder | Path | str | None = None, *, thorough: bool = False) -> dict[str, Any]:
    """Check a config and its data, and tell what would run. Starts no Ray and leaves no file.

    Reads all annotations and the header of every annotated image, lists the pool, and builds both models. Checks that
    the run folder can be written and that its disk holds the labels.

    Args:
        config: the run's config.
        run: the run folder, a path or a URI. Without it, the config's `out`.
        thorough: read all pixels of the annotated images. Damage in the middle of a file shows only there.

    Returns:
        The splits, classes, pool, disk space, the state of every stage, and `remarks`: lines about annotations or a
        model that hardly anyone wants.

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
    splits: dict[str, dict[str, Any]] = {}
    remarks: list[str] = []
    for name in ("labelled", "calibration", "validation"):
        if name == "calibration" and config.calibration.folds:
            continue
        part = getattr(data, name)
        _check_images_exist(name, part)
        turned = _check_images_fit(name, part, max_pixels=config.data.max_image_pixels, thorough=thorough)
        remarks += _check_meaning(name, part)
        counts = part.class_image_counts()
        num_labelled = overlap(part, data.labelled) if name != "labelled" else 0
        splits[name] = {
            "num_images": len(part),
            "num_instances": int(part.class_instance_counts().sum()),
            "num_classes": part.num_classes,
            "num_classes_absent": int((counts == 0).sum()),
            "is_federated": part.is_federated,
        }
        splits[name] |= {"num_also_labelled": num_labelled} if num_labelled else {}
        splits[name] |= {"turned": turned} if turned else {}
    remarks += _too_small_a_model(config.teacher, data.labelled)
    groups = data.frequency_groups.tolist()
    _check_models(config, data.labelled)
    left_out, truth = LeftOut(), truth_match(data)
    num_images, num_shards = count_pool(run, data, shard_size=config.label.shard_size, left_out=left_out, truth=truth)
    if truth:
        truth.refuse_none()
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
            "truth_known": truth is not None,
        }
        | ({"as_stored": truth.as_stored} if truth and truth.as_stored is not None else {})
        | ({"left_out": left_out.text()} if left_out else {})
        | ({"truth_misses": truth.text()} if truth and truth.text() else {}),
        "disk": disk.text(),
        "teacher": _teacher_misfit(run, data),
        "corrector": other_corrector(run, config.calibration),
        "stages": stages,
        "rounds": {str(number): states for number, states in rounds.items()},
        "remarks": remarks,
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


def _too_small_a_model(teacher: TeacherConfig, labelled: AnnotatedSet) -> list[str]:
    """Remark that the default model, which starts from nothing, learns little from photographs.

    No remark if the config names another model or weights, or if half of the images' sides are short.
    """
    side = statistics.median(side for image in labelled.images for side in image.image_size_hw)
    if teacher.model != TeacherConfig().model or teacher.weights or side <= LARGEST_TINY_SIDE:
        return []
    return [
        f"teacher.model {teacher.model} starts from nothing, and the median side of the labelled images is {side:g} "
        "pixels. On photographs its AP stays near 0; docs/own-data.md has a config with pretrained weights."
    ]


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
        by_folder.setdefault(split(image.uri)[0], []).append(image.uri)
    missing: list[str] = []
    for folder, uris in by_folder.items():
        there = {info.base_name for info in list_files(folder)}
        missing += [uri for uri in uris if there.isdisjoint(_file_names(uri)) and not _is_unlisted(uri)]
    if missing:
        others = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise InputError(f"data.{name}: {missing[0]}: no such image{others}, of {len(annotated)} images")


def _is_unlisted(uri: str) -> bool:
    """Tell whether an image exists although `list_files` leaves out its name."""
    name = split(uri)[1]
    return (name.startswith(".") or name.endswith(".tmp")) and exists(uri)


def _file_names(uri: str) -> list[str]:
    """Return the name of an image's file and, of a reference such as `x.tar#1.jpg`, the name of the container."""
    reference = split_reference(uri)
    return [split(one)[1] for one in (uri, reference and reference[0]) if one]


def _check_images_fit(name: str, annotated: AnnotatedSet, *, max_pixels: int, thorough: bool) -> str:
    """Check that every image is one, and has the size of its annotations. Say how images are turned, "" if none is."""
    with Progress(f"check: {name} images", len(annotated)) as progress:
        found = check_headers(annotated.images, max_pixels=max_pixels, thorough=thorough, on_image=progress.update)
    if found.unusable:
        image, why = found.unusable[0]
        others = f", and {len(found.unusable) - 1} more can't be used" if len(found.unusable) > 1 else ""
        raise InputError(f"data.{name}: {image.uri}: {why}{others}")
    return found.turned_text(as_stored=annotated.images[0].as_stored)


def _check_meaning(name: str, annotated: AnnotatedSet) -> list[str]:
    """Return remarks on the annotations of a split. Refuse a split without anything to learn or to measure."""
    found = inspect_annotations(annotated)
    remarks = [f"{name}: {remark}" for remark in found.remarks()]
    if not found.num_learnable:
        why = "; ".join(found.remarks()) or "there is no annotation"
        raise InputError(f"data.{name}: nothing can be learnt or measured: {why}")
    return remarks


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
