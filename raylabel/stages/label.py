"""Stage 4: run the teacher over the pool. Soft pseudo-labels are written in shards, each committed exactly once.

`recalibrate` applies another corrector to the stored labels without the teacher.
"""

from typing import Any

from raylabel.cluster.shard_tasks import map_over_shards
from raylabel.config import Config, SelectionConfig, config_dict
from raylabel.dataset.frequency import FrequencyGroup
from raylabel.files.digests import digest
from raylabel.run.calibration import fit_to_pool, load_corrector, refit
from raylabel.run.classes import RunClasses, load_classes
from raylabel.run.data import RunData
from raylabel.run.drift import compare_with_pool
from raylabel.run.folder import RunFolder, commit_config, load_run_config, stage_folder
from raylabel.run.labels.class_fates import ClassFates, commit_class_fates
from raylabel.run.labels.corrected import apply_corrector
from raylabel.run.labels.foreign import set_aside_foreign
from raylabel.run.labels.in_validation import ensure_compared, is_compared
from raylabel.run.labels.manifest import commit_plan, ensure_manifest, has_grown
from raylabel.run.labels.survey import Survey, survey_labels
from raylabel.run.labels.totals import in_validation_uri, summarise
from raylabel.run.lease import hold_lease
from raylabel.run.models import TEACHER
from raylabel.run.stage import execute_stage, finished, holds
from raylabel.stages.label_shards import label_pending_shards
from raylabel.stages.preflight import check_teacher_fits

FOLDER = stage_folder("label")


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    return {
        "teacher": finished(run, "teacher")["fingerprint"],
        "pool": data.pool_source,
        "label": {
            name: getattr(config.label, name) for name in ("shard_size", "score_threshold", "max_per_image", "top_k")
        }
        | config.label.later_inputs,
        "max_image_pixels": config.data.max_image_pixels,
    }


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return the corrector, the selection, and the calibration that drift was measured against."""
    return {
        "corrector_digest": digest(load_corrector(run).to_json()),
        "selection_settings": config_dict(config.selection),
        "drift": {"calibration": finished(run, "calibrate")["fingerprint"]},
    }


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Label the pending shards of the pool.

    A pool that was labelled completely is listed again, and its new images get new shards. Another corrector or
    selection is applied to the stored labels, without the teacher. Images with the content of a validation image get no
    labels, unless `data.validation_in_pool` keeps them.

    Raises:
        InputError: the pool is empty, the cluster or the disk is too small, or another driver is at work on the run.
            Also if teacher and labelled set don't fit, a validation image can't be read, the teacher fails at every
            image, or more than `label.max_bad_fraction` of the images are quarantined. Committed labels stay.
    """
    data = RunData(config, run)
    made_of = inputs(config, run, data)
    check_teacher_fits(run, data, load_corrector(run))
    survey: Survey | None = None  # of the shards, if they were labelled now

    def label() -> dict[str, Any]:
        nonlocal survey
        content, survey = _label_pool(config, run, data, fingerprint=digest(made_of), driver_id=driver_id)
        return content

    with hold_lease(run) as driver_id:
        artifact = execute_stage(
            run,
            "label",
            made_of,
            label,
            later=lambda: later(config, run),
            apply_later=lambda artifact: apply_later(config, run, artifact, survey),
            is_complete=lambda artifact: _is_complete(run, data, artifact),
        )
    _print_kept(config, run, artifact)
    return artifact


def recalibrate(run: RunFolder, corrector: str) -> dict[str, Any]:
    """Fit another kind of corrector on the run's stored detections, and apply the corrector to the stored labels.

    The next run of the stage `calibrate` fits the corrector of its config again, unless that is the same kind.

    Raises:
        InputError: the run has no detections or labels, the kind is unknown, or another driver is at work on the run.
    """
    config = load_run_config(run, {"calibration.corrector": corrector})
    with hold_lease(run):
        finished(run, "label")  # before anything is changed
        refit(run, config.calibration, seed=config.seed)
        artifact = apply_later(config, run, finished(run, "label"))
        commit_config(run, config)
    _print_kept(config, run, artifact)
    reminder = f"set calibration.corrector: {corrector} in the config too, because `raylabel run` follows its config"
    print(f"{run.title('recalibrate')}: {reminder}", flush=True)
    return artifact


def apply_later(
    config: Config, run: RunFolder, artifact: dict[str, Any], survey: Survey | None = None
) -> dict[str, Any]:
    """Bring stored labels and their artifact up to the run's corrector and the config's selection.

    A corrector that uses the pool's scores is fitted to them first, because they are known only now. Drift from the
    calibration split is measured again if the split or the pool has changed.

    Args:
        config: the run's config.
        run: the run folder.
        artifact: the stage's artifact.
        survey: the survey of the shards as they are. Without it they are read.

    Raises:
        InputError: the pool is not labelled yet.
    """
    fit_to_pool(run, config.calibration, seed=config.seed)
    corrector, classes = load_corrector(run), load_classes(run)
    current = later(config, run)
    of_drift = {"drift": current.pop("drift")}
    if survey is None or survey.correctors - {current["corrector_digest"]}:
        apply_corrector(run, corrector, num_classes=classes.num_classes, map_groups=map_over_shards)
        survey = None
    if not holds(artifact, current | of_drift):
        survey = survey or survey_labels(run, config.selection, classes, map_groups=map_over_shards)
        if not holds(artifact, current):
            selection = _count_selection(config.selection, run, classes, survey.fates)
            artifact |= {**current, "corrector": corrector.kind, "selection": selection}
            run.commit_artifact(FOLDER, artifact)
        if not holds(artifact, of_drift):
            artifact |= {"drift": compare_with_pool(run, survey.image_counts)}
            run.commit_artifact(FOLDER, artifact)
    return artifact


def _is_complete(run: RunFolder, data: RunData, artifact: dict[str, Any]) -> bool:
    """Tell whether finished labels have nothing left to do. New images of the pool get new shards first.

    All shards must belong to these labels, and be compared with the validation split. Labels of earlier versions can't
    be compared.
    """
    are_own = not set_aside_foreign(run, map_groups=map_over_shards)
    is_up_to_date = not has_grown(run, data, artifact)
    return are_own and is_up_to_date and ("num_in_validation" not in artifact or is_compared(run, data))


def _print_kept(config: Config, run: RunFolder, artifact: dict[str, Any]) -> None:
    title = run.title("label")
    kept, groups = artifact["selection"]["kept"], artifact["selection"]["kept_by_group"]
    by_group = ", ".join(f"{groups[group]} {group}" for group in FrequencyGroup)
    print(f"{title}: {kept} of {artifact['num_instances']} predictions kept as pseudo-labels ({by_group})", flush=True)
    if not kept:
        remedy = "`raylabel status RUN --classes` says why. Lower selection.min_score, or train the teacher longer."
        print(f"{title}: WARNING: no prediction is kept. {remedy}", flush=True)
    if num := artifact.get("num_in_validation"):
        where = in_validation_uri(run)
        print(f"{title}: {num} images are in validation and left out; they are named in {where}", flush=True)
        if config.data.validation_in_pool == "keep":
            remedy = f"move {run.path(FOLDER)} away to label them"
            print(f"{title}: WARNING: data.validation_in_pool: keep came after them; {remedy}", flush=True)
    if num := artifact.get("num_not_compared"):
        print(f"{title}: {num} images were labelled by an earlier version and not compared with validation", flush=True)
    if artifact["drift"]["warning"]:
        print(f"{title}: WARNING: {artifact['drift']['warning']}", flush=True)


def _count_selection(
    selection: SelectionConfig, run: RunFolder, classes: RunClasses, fates: ClassFates
) -> dict[str, Any]:
    """Return how many stored predictions the selection keeps, per frequency group, and how many it drops, per reason.

    The same counts per class go to labels/classes.parquet.
    """
    commit_class_fates(run, fates.to_table(classes, selection))
    groups, kept = classes.frequency_groups, fates.num_kept
    by_group = {group.value: int(kept[groups == group].sum()) for group in FrequencyGroup}
    return {"kept": int(kept.sum()), "kept_by_group": by_group, "dropped": fates.dropped}


def _label_pool(
    config: Config, run: RunFolder, data: RunData, *, fingerprint: str, driver_id: str
) -> tuple[dict[str, Any], Survey]:
    manifest = ensure_manifest(run, data, shard_size=config.label.shard_size)
    commit_plan(run, manifest, fingerprint=fingerprint)
    classes = load_classes(run)
    if not is_compared(run, data):
        set_aside_foreign(run, map_groups=map_over_shards)
        ensure_compared(run, data, num_classes=classes.num_classes, map_groups=map_over_shards)
    while True:
        label_pending_shards(
            config, run, manifest, model_uri=run.path(TEACHER), fingerprint=fingerprint, driver_id=driver_id
        )
        # At the end, because a worker of a driver that lost the run may have written meanwhile.
        if not set_aside_foreign(run, map_groups=map_over_shards):
            break
    survey = survey_labels(run, config.selection, classes, map_groups=map_over_shards)
    totals = summarise(
        run,
        survey,
        num_images=manifest.num_images,
        num_shards=manifest.num_shards,
        max_bad_fraction=config.label.max_bad_fraction,
    )
    return totals | {"pool_digest": manifest.digest}, survey
