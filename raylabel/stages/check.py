"""Check a config and its data, and tell what would run, before anything is spent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raylabel.config import Config
from raylabel.dataset.annotations import AnnotatedSet
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.dataset.image_files import check_images_exist
from raylabel.dataset.image_headers import Examined, unusable_images
from raylabel.dataset.inspection import Inspection, inspect_annotations
from raylabel.dataset.overlaps import Overlap, overlaps
from raylabel.dataset.pool.left_out import LeftOut
from raylabel.dataset.pool.search import PoolSearch
from raylabel.errors import InputError
from raylabel.models.saved import load_segmenter
from raylabel.models.segmenter import chosen_layer, is_trainable
from raylabel.progress import Progress
from raylabel.redaction import redacted
from raylabel.run.annotation_copies import kept_json
from raylabel.run.calibration import load_corrector, other_corrector
from raylabel.run.data import RunData, truth_match
from raylabel.run.folder import RunFolder, run_folder, stage_folder
from raylabel.run.image_headers import examine_split
from raylabel.run.labels.disk_need import check_disk
from raylabel.run.labels.in_validation import is_compared
from raylabel.run.labels.manifest import count_pool
from raylabel.stages.doubtful_settings import doubtful_settings
from raylabel.stages.preflight import check_teacher_fits, check_writable
from raylabel.stages.states import AGAIN, NEW, stage_states
from raylabel.stages.training_jobs import new_segmenter
from raylabel.training.federated import federated_classes

_READERS = {"labelled": "prototypes", "calibration": "calibrate", "validation": "evaluate"}
"""The stage that reads every image of a split, by the split's name."""


def check_run(
    config: Config, run: RunFolder | Path | str | None = None, *, thorough: bool = False, resumes: bool = False
) -> dict[str, Any]:
    """Check a config and its data, and tell what would run. Starts no Ray.

    Reads all annotations and the header of every annotated image, lists the pool, and builds both models. Checks that
    the run folder can be written and that its disk holds the labels. Keeps in the run what it read of annotation files
    and images (RUN/data). If the run starts next, keeps the listing of the pool too.

    Args:
        config: the run's config.
        run: the run folder, a path or a URI. Without it, the config's `out`.
        thorough: read all pixels of the annotated images, because damage in the middle of a file shows only there, and
            compare every image of the pool that may be one of a split.
        resumes: the run starts next. Images of splits that a finished stage has read whole from the same annotation
            file are trusted, and the listing of the pool is kept in the run.

    Returns:
        The splits and their `overlaps`, classes, pool, disk space, the state of every stage, and `remarks`: lines about
        annotations, overlaps or a model that hardly anyone wants.

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
    data = RunData(config, run)
    names = ("labelled", "validation") if config.calibration.folds else ("labelled", "calibration", "validation")
    parts: dict[str, AnnotatedSet] = {name: getattr(data, name) for name in names}
    files = check_images_exist(parts, data.truth_uris)
    splits: dict[str, dict[str, Any]] = {}
    remarks: list[str] = []
    for name, part in parts.items():
        remarks += _check_meaning(name, data, part)
        counts = part.class_image_counts()
        splits[name] = {
            "num_images": len(part),
            "num_instances": int(part.class_instance_counts().sum()),
            "num_classes": part.num_classes,
            "num_classes_absent": int((counts == 0).sum()),
            "is_federated": part.is_federated,
        }
    remarks += doubtful_settings(config, data.labelled)
    groups = data.frequency_groups.tolist()
    _check_models(config, data.labelled)
    stages, rounds = stage_states(config, run, data)
    examined = {
        name: _check_images_fit(name, data, part, files.stamps, thorough=thorough)
        for name, part in parts.items()
        if not (resumes and _has_read(run, name, stages))
    }
    for name, one in examined.items():
        if turned := one.turned_text(as_stored=parts[name].images[0].source.as_stored):
            splits[name]["turned"] = turned
    remarks += _doubtful_orientations(examined, parts)
    remarks += [f"data.{name}: {text}" for name, one in examined.items() if (text := one.contents.repeated_text())]
    left_out, truth = LeftOut(), truth_match(data)
    labels = run.artifact(stage_folder("label")) if stages["label"] not in (NEW, AGAIN) else None
    is_known = labels is not None and _knows_validation(run, data, labels)
    search = None if is_known or not examined else PoolSearch(examined, config.data.max_image_pixels, thorough=thorough)
    num_images, num_shards = count_pool(
        run, data, shard_size=config.label.shard_size, keep=resumes, left_out=left_out, truth=truth, search=search
    )
    if truth:
        truth.refuse_none()
    shared = overlaps({name: one.contents for name, one in examined.items()}) + (search.overlaps() if search else [])
    has_old_labels = labels is not None and bool(labels.get("num_not_compared", "num_in_validation" not in labels))
    uses = [_double_use(one, config, has_old_labels=has_old_labels) for one in shared]
    remarks += [use["text"] for use in uses if use["is_harmful"]]
    disk = check_disk(config.label, run, num_images=num_images, keeps_labels=stages["label"] != AGAIN)
    return {
        "run": redacted(run.uri),
        "splits": splits,
        **({"unannotated": _say_unnamed(files.unnamed)} if files.unnamed else {}),
        "overlaps": uses,
        **({"portion": text} if (text := _portion(config, data)) else {}),
        "use_of_labels": _use_of_labels(config, data),
        "frequency_groups": {group.value: groups.count(group) for group in FrequencyGroup},
        "pool": {
            "num_images": num_images,
            "num_shards": num_shards,
            "truth_known": truth is not None,
        }
        | ({"as_stored": truth.as_stored} if truth and truth.as_stored is not None else {})
        | ({"left_out": left_out.text()} if left_out else {})
        | ({"in_validation": labels["num_in_validation"]} if labels and is_known else {})
        | ({"compared": search.text()} if search else {})
        | ({"truth_misses": truth.text()} if truth and truth.text() else {}),
        "disk": disk.text(),
        "teacher": _teacher_misfit(run, data),
        "corrector": other_corrector(run, config.calibration),
        "stages": stages,
        "rounds": {str(number): states for number, states in rounds.items()},
        "remarks": remarks,
    }


def _say_unnamed(unnamed: Mapping[str, int]) -> str:
    """Say in one line how many image files no annotation file names, and where they are."""
    folder = max(unnamed, key=lambda one: unnamed[one])
    where = f"in {folder}"
    if len(unnamed) > 1:
        where = f"in {len(unnamed)} folders, {unnamed[folder]} of them in {folder},"
    return redacted(f"{sum(unnamed.values())} image files {where} are in none of the annotation files")


def _has_read(run: RunFolder, name: str, stages: Mapping[str, str]) -> bool:
    """Tell whether a finished stage has read every image of a split."""
    reader = _READERS[name]
    artifact = run.artifact(stage_folder(reader)) if stages[reader] not in (NEW, AGAIN) else None
    # Prototypes of a teacher without embeddings read no image.
    return artifact is not None and artifact.get("num_images") != 0


def _knows_validation(run: RunFolder, data: RunData, labels: Mapping[str, Any]) -> bool:
    """Tell whether the labels' artifact counts the pool images of this validation split, all of them."""
    is_counted = "num_in_validation" in labels and not labels.get("num_not_compared")
    return is_counted and data.config.data.validation_in_pool == "leave_out" and is_compared(run, data)


def _doubtful_orientations(examined: Mapping[str, Examined], parts: Mapping[str, AnnotatedSet]) -> list[str]:
    """Say which splits are read as stored for want of an image that tells, though others annotate displayed images."""
    telling = [name for name, one in examined.items() if one.turns["displayed"] and not one.turns["stored"]]
    guessed = [name for name, one in examined.items() if one.turns["either"] and parts[name].images[0].source.as_stored]
    return [
        f"data.{name}: {examined[name].turns['either']} images that EXIF mirrors or turns have the annotated size "
        f"either way. They are read as stored, although data.{telling[0]} annotates displayed images"
        for name in guessed
        if telling and not examined[name].turns["stored"]
    ]


def _double_use(overlap: Overlap, config: Config, *, has_old_labels: bool) -> dict[str, Any]:
    """Say what an overlap means, and whether it spoils a model or a figure.

    Args:
        overlap: two splits, or a split and the pool.
        config: the run's config.
        has_old_labels: whether the run has finished labels that were made without a look at validation.
    """
    is_harmful = overlap.sets[1] != "pool"
    match overlap.sets:
        case ("labelled", "calibration"):
            meaning = "The teacher has seen them, so its scores are corrected too little"
        case ("labelled", "validation"):
            meaning = "Models are measured on images that they learn from"
        case ("calibration", "validation") if config.student_learns_calibration:
            meaning = "The student is measured on images that it learns from"
        case ("calibration", "validation"):
            is_harmful, meaning = False, "The corrector is measured on images that it was fitted to"
        case ("validation", "pool") if config.data.validation_in_pool == "keep":
            is_harmful, meaning = True, "data.validation_in_pool: keep labels them, and the student is measured on them"
        case ("validation", "pool") if has_old_labels:
            is_harmful, meaning = True, "The labels were made by an earlier version, and label does not leave them out"
        case ("validation", "pool"):
            meaning = "label leaves them out (data.validation_in_pool)"
        case ("calibration", "pool"):
            meaning = "They get pseudo-labels as well, by a corrector that was fitted to them"
        case _:
            meaning = "They get pseudo-labels as well, and the student learns from both"
    return {
        "sets": list(overlap.sets),
        "num_images": overlap.num_images,
        "is_harmful": is_harmful,
        "text": f"{overlap.text()}. {meaning}.",
    }


def _portion(config: Config, data: RunData) -> str:
    """Say in one line how large the portion of the labelled images is. "" if all are used."""
    portion = config.data.labelled
    if isinstance(portion, str):
        return ""
    num_used, num_left = len(data.labelled), data.num_set_aside
    return (
        f"{num_used:,} of {num_used + num_left:,} labelled images ({100 * portion.fraction:g}%, seed {portion.seed}); "
        f"the other {num_left:,} join the pool"
    )


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


def _check_images_fit(
    name: str, data: RunData, annotated: AnnotatedSet, stamps: Mapping[str, tuple[int, int]], *, thorough: bool
) -> Examined:
    """Check that every image is one, and has the size of its annotations. Return their contents."""
    with Progress(f"check: {name} images", len(annotated)) as progress:
        found = examine_split(data, name, annotated, stamps, thorough=thorough, on_image=progress.update)
    if found.unusable:
        raise unusable_images(name, found.unusable, len(annotated))
    return found


def _check_meaning(name: str, data: RunData, annotated: AnnotatedSet) -> list[str]:
    """Return remarks on the annotations of a split. Refuse a split without anything to learn or to measure."""
    of = data.split_digest(name)
    found = kept_json(data.run, Inspection, "inspection", of, lambda: inspect_annotations(annotated))
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
            f"teacher.weights: {config.teacher.weights}: its classes must be those of {config.data.labelled_file} in "
            f"the order of category ids, got {there!r} in place of {here!r}"
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
