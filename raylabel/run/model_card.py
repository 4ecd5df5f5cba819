"""README.md of a model's folder: the model card, made of what the run knows when a stage ends.

Beside the card lies a copy of classes.json, so that a copy of the folder keeps the names of the classes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

from raylabel.config import Config, TrainingConfig
from raylabel.files.committing import commit_bytes
from raylabel.files.paths import split
from raylabel.redaction import redacted
from raylabel.run.classes import RunClasses, classes_uri, load_classes, write_classes
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.learnt_from import SUPERVISED, LearntFrom, student_arm
from raylabel.run.metrics import load_metrics
from raylabel.run.models import STUDENT, TEACHER, has_model
from raylabel.run.rounds import is_fitted_to, round_run, student_correctors

CARD = "README.md"

FIGURES = ("AP", "APr", "APc", "APf")


def commit_cards(config: Config, run: RunFolder) -> None:
    """Write the card of the teacher and of each round's student, as far as they are trained. Nested runs have none."""
    if run.place:
        return
    arms = {"teacher": (run, TEACHER)}
    arms |= {student_arm(number): (round_run(run, number), STUDENT) for number in range(1, config.student.rounds + 1)}
    for arm, (trained_in, folder) in arms.items():
        if has_model(trained_in, folder) and trained_in.artifact(folder) is not None:
            classes = load_classes(run)
            write_classes(classes_uri(RunFolder(trained_in.path(folder))), classes)
            text = _card(config, run, trained_in, arm, classes)
            commit_bytes(trained_in.path(folder, CARD), text.encode())


def _card(config: Config, run: RunFolder, trained_in: RunFolder, arm: str, classes: RunClasses) -> str:
    is_teacher = arm == "teacher"
    settings: TrainingConfig = config.teacher if is_teacher else config.student
    metrics = _current_metrics(run)
    name = f"{split(run.uri)[1]}-{arm}"
    header = yaml.safe_dump(_metadata(name, arm, metrics), sort_keys=False, allow_unicode=True)
    place = trained_in.place + (TEACHER if is_teacher else STUDENT)
    parts = [
        f"---\n{header}---\n",
        f"# {_plain(name)}\n",
        f"Instance segmentation of {classes.num_classes} classes. The model is the {arm} of a run of raylabel "
        f"{version('raylabel')}, a `{settings.model}`.\n",
        _load(place),
        "## Training\n",
        *_training(config, run, trained_in, metrics, arm),
        "## Accuracy\n",
        *_accuracy(metrics, arm),
        "## Calibration\n",
        *_calibration(config, run, trained_in, arm),
        "## Limits\n",
        *_limits(config, classes, metrics),
        "## Weights and licence\n",
        _weights(config, settings, is_teacher=is_teacher),
        "## Classes\n",
        *_classes(classes),
    ]
    return "\n".join(parts)


def _current_metrics(run: RunFolder) -> dict[str, Any]:
    """Return the figures of `evaluate`, empty if they are of other models than the run has now."""
    artifact = run.artifact(stage_folder("evaluate"))
    if artifact is None:
        return {}
    for name, folder in (("teacher", TEACHER), ("student", STUDENT)):
        trained = run.artifact(folder)
        if trained is None or artifact.get("inputs", {}).get(name) != trained["fingerprint"]:
            return {}
    return load_metrics(run) or {}


def _metadata(name: str, arm: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header that the Hugging Face hub reads."""
    header: dict[str, Any] = {
        "library_name": "raylabel",
        "pipeline_tag": "image-segmentation",
        "tags": ["instance-segmentation", "long-tail", "pseudo-labels", "calibration"],
        "license": "unknown",
    }
    figures = metrics.get("validation", {}).get(arm, {})
    known = [{"type": f"mask_{one}", "name": f"mask {one}", "value": round(value, 4)} for one, value in _known(figures)]
    if known:
        dataset = {"type": "validation", "name": "validation split of the run"}
        task = {"type": "image-segmentation", "name": "Instance segmentation"}
        header["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": known}]}]
    return header


def _known(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in FIGURES:
        if (value := figures.get(name)) is not None:
            yield name, value


def _load(place: str) -> str:
    return (
        "```python\nimport raylabel as rl\n\n"
        f'model = rl.load_model("RUN/{place}")  # or a copy of this folder, which has neither corrector nor selection\n'
        'found = model.predict("image.jpg", min_score=0.5)\n'
        "print(found.class_names, found.calibrated_scores)\n```\n\n"
        f"    raylabel predict RUN/{place} IMAGES --out predictions.json\n"
    )


def _training(
    config: Config,
    run: RunFolder,
    trained_in: RunFolder,
    metrics: Mapping[str, Any],
    arm: str,
) -> Iterator[str]:
    of_model = trained_in.artifact(TEACHER if arm == "teacher" else STUDENT) or {}
    if known := metrics.get("learnt_from", {}).get(arm):
        yield f"- learnt from: {LearntFrom(**known).text()}"
    else:
        yield f"- optimizer steps: {of_model.get('steps', 0):,}"
    if arm != "teacher":
        yield f"- pseudo-labels: {of_model.get('num_pool_instances', 0):,}, predicted by the teacher, checked by nobody"
    yield f"- seed: {config.seed}"
    yield f"- fingerprint of the training: `{of_model.get('fingerprint', '')}`"
    labels = run.artifact(stage_folder("label")) or {}
    evaluated = run.artifact(stage_folder("evaluate")) or {}
    digests = {
        "labelled": of_model.get("inputs", {}).get("labelled"),
        "calibration": of_model.get("inputs", {}).get("calibration"),
        "validation": evaluated.get("inputs", {}).get("validation"),
        "pool": labels.get("pool_digest"),
    }
    for name, digest in digests.items():
        if digest and not (arm == "teacher" and name in ("pool", "calibration")):
            source = getattr(config.data, name)
            # The name alone, because cards are published and paths name people and machines.
            where = f" ({_plain(split(redacted(source))[1])})" if isinstance(source, str) else ""
            yield f"- digest of the {name} data{where}: `{digest}`"
    yield ""


def _accuracy(metrics: Mapping[str, Any], arm: str) -> Iterator[str]:
    validation = metrics.get("validation", {})
    if arm not in validation:
        yield "Not measured yet: `raylabel evaluate` measures it and writes the figures here.\n"
        return
    yield "Mask AP x 100 on the validation split, with the half width of its 95% interval over the images.\n"
    yield f"| model | {' | '.join(FIGURES)} |\n|---|{'---:|' * len(FIGURES)}"
    half_widths = metrics.get("validation_half_widths", {})
    for name in dict.fromkeys((arm, f"{arm}+corrector", SUPERVISED, f"{SUPERVISED}+corrector", "teacher")):
        if name in validation:
            cells = (_cell(validation[name].get(one), half_widths.get(name, {}).get(one)) for one in FIGURES)
            yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    differences = metrics.get("validation_differences") or {}
    of_arm = differences.get("models", {}).get(arm, {})
    texts = [
        f"{name} {100 * one['value']:+.1f} ± {100 * one['half_width']:.1f}"
        for name in FIGURES
        if (one := of_arm.get(name))
    ]
    if texts:
        yield f"The {arm} minus {differences['from']}: {', '.join(texts)}.\n"


def _cell(value: float | None, half_width: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if half_width is None else f" ± {100 * half_width:.1f}")


def _calibration(config: Config, run: RunFolder, trained_in: RunFolder, arm: str) -> Iterator[str]:
    is_teacher = arm == "teacher"
    number = next((one for one in range(1, config.student.rounds + 1) if student_arm(one) == arm), 0)
    calibrated = run if is_teacher else student_correctors(config, run).get(number)
    if calibrated is None or not is_fitted_to(calibrated, trained_in, is_teacher=is_teacher):
        yield f"No corrector yet: `raylabel {'calibrate' if is_teacher else 'evaluate'}` fits one.\n"
        return
    artifact = calibrated.artifact(stage_folder("calibrate")) or {}
    raw, corrected = artifact.get("raw"), artifact.get("calibrated_cross_validated")
    kind, folder = artifact.get("corrector_chosen", artifact.get("corrector")), stage_folder("calibrate")
    yield f"Corrector: `{kind}`, in `{calibrated.place}{folder}/` of the run.\n"
    if raw and corrected:
        yield f"{artifact['num_detections']:,} detections of the calibration split, correction cross-validated:\n"
        yield "| figure | raw | corrected |\n|---|---:|---:|"
        for name in ("ece", "nll", "ccece"):
            cells = (_decimal(each.get(name)) for each in (raw, corrected))
            yield f"| {name.upper()} | {' | '.join(cells)} |"
        yield ""


def _decimal(value: Any) -> str:
    value = value.get("all") if isinstance(value, Mapping) else value  # the CCECE has a figure per group
    return "–" if value is None or value != value else f"{value:.3f}"


def _limits(config: Config, classes: RunClasses, metrics: Mapping[str, Any]) -> Iterator[str]:
    groups = Counter(classes.frequency_groups.tolist())
    yield "- The model knows only the classes below, in images like those of its training."
    yield (
        f"- {groups['r']} classes are rare, {groups['c']} common and {groups['f']} frequent, by their training images. "
        "Figures of rare classes are the least certain."
    )
    yield "- Calibrated scores hold for images like those of the calibration split."
    selection = config.selection
    yield f"- The run's selection keeps calibrated scores of at least {selection.min_score:g}."
    selected = (metrics.get("pool") or {}).get("selected")
    if selected:
        yield (
            "- The teacher's pseudo-labels that the selection keeps have precision "
            f"{selected['precision']:.3f} and recall {selected['recall']:.3f} against the pool's truth."
        )
    yield ""


def _weights(config: Config, settings: TrainingConfig, *, is_teacher: bool) -> str:
    starts = [config.teacher, settings] if is_teacher or config.student.init == "teacher" else [settings]
    named = dict.fromkeys(_plain(redacted(one.weights)) for one in starts if one.weights is not None)
    if not named:
        return "Training started from nothing. The run knows no licence of the data: check it before you publish.\n"
    return (
        f"Training started from the weights {' and '.join(named)}. The config states neither their licence nor that of "
        "the data: check both before you publish.\n"
    )


def _classes(classes: RunClasses) -> Iterator[str]:
    yield "| id | class | group | training images |\n|---:|---|---|---:|"
    columns: Sequence[Any] = (
        classes.category_ids.tolist(),
        classes.names,
        classes.frequency_groups.tolist(),
        classes.num_train_images.tolist(),
    )
    for category_id, name, group, num in zip(*columns, strict=True):
        yield f"| {category_id} | {_plain(name)} | {group} | {num:,} |"
    yield ""


def _plain(text: str) -> str:
    """Return a name of the user's as it stands in a table: one line, without Markdown's signs."""
    return "".join(f"\\{sign}" if sign in "\\|`*_[]<>#" else sign for sign in " ".join(text.split()))
