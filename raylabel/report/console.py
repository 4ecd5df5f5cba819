"""Console text: every `format_*` function. Imports no plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from raylabel.dataset.frequency import group_title
from raylabel.progress import Figures
from raylabel.run.learnt_from import LearntFrom
from raylabel.run.rounds import ROUND_STAGES
from raylabel.schema import SHARD_PHASES

NAMES = ("AP", "AP50", "APr", "APc", "APf")
"""Figures of the table on the console."""


def format_metrics(metrics: dict[str, Any]) -> str:
    """Format AP of every model, and the calibration of the pool's labels before and after correction."""
    lines = ["validation (mask AP x 100)" + "".join(f"{name:>8}" for name in NAMES)]
    for arm, figures in metrics["validation"].items():
        cells = "".join("       –" if (value := figures.get(name)) is None else f"{100 * value:8.1f}" for name in NAMES)
        lines.append(f"  {arm:<24}{cells}{_format_learnt_from(metrics, arm)}")
    if metrics.get("frequency") == "declared":
        lines.append("  (APr, APc and APf: groups as the validation file declares them)")
    lines += _format_differences(metrics.get("validation_differences"))
    if metrics.get("verification"):
        lines.append(format_verification(metrics["verification"]))
    pool = metrics.get("pool")
    if pool and pool["num_instances"]:
        lines.append("pool labels against their hidden truth     raw  calibrated")
        for name in ("ece", "nll", "ccece"):
            raw, calibrated = pool["raw"][name], pool["calibrated"][name]
            lines.append(f"  {name.upper():<36}{raw:10.3f}{calibrated:12.3f}")
        selected = pool["selected"]
        lines.append(
            f"pseudo-labels kept: {selected['num']}, precision {selected['precision']:.3f}, "
            f"recall {selected['recall']:.3f}"
        )
    return "\n".join(lines)


def _format_learnt_from(metrics: dict[str, Any], arm: str) -> str:
    """Say what a model has learnt from. Its corrected outputs, and metrics of earlier versions, say nothing."""
    known = metrics.get("learnt_from", {}).get(arm)
    return f"   {LearntFrom(**known).text()}" if known else ""


def _format_differences(differences: dict[str, Any] | None) -> list[str]:
    """Format the differences between models. Metrics without intervals give no line."""
    if not differences or not differences["models"]:
        return []
    names = ("AP", "APr")
    title = f"minus {differences['from']}, 95% interval"
    lines = [f"{title:<32}" + "".join(f"{name:>16}" for name in names)]
    for arm, of_arm in differences["models"].items():
        known = [of_arm.get(name) for name in names]
        cells = (f"{100 * one['value']:+.1f} ± {100 * one['half_width']:.1f}" if one else "–" for one in known)
        lines.append(f"  {arm:<30}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


FIGURE_MEANINGS = {
    "AP": "average precision, mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "objects below 32 x 32 pixels",
    "APm": "objects of 32 x 32 to 96 x 96 pixels",
    "APl": "objects above 96 x 96 pixels",
    "APr": "rare classes",
    "APc": "common classes",
    "APf": "frequent classes",
    "AR1": "average recall, 1 detection per image",
    "AR10": "10 detections per image",
    "AR100": "100 detections per image",
    "AR@300": "average recall, 300 detections per image",
}
"""Meaning of each figure of a results file. The suffixes s, m and l mean the same for AR."""


def format_figures(figures: Mapping[str, float | None], *, iou_type: str = "segm") -> str:
    """Format the figures of `evaluate_results` as a table, one row per figure."""
    lines = [f"{'mask' if iou_type == 'segm' else 'box'} AP and AR x 100"]
    for name, value in figures.items():
        cell = "–" if value is None else f"{100 * value:.1f}"
        meaning = FIGURE_MEANINGS.get(name) or FIGURE_MEANINGS.get(f"AP{name[2:3]}", "")
        lines.append(f"  {name:<8}{cell:>6}  {meaning}")
    return "\n".join(lines)


def format_misses(num_without_detection: int, num_images: int) -> list[str]:
    """Format the number of annotated images that a results file does not name, as at most one line."""
    if not num_without_detection:
        return []
    return [f"WARNING: {num_without_detection} of {num_images} images of the annotations have no detection"]


def format_verification(verification: Mapping[str, Any] | None) -> str:
    """Format `Verification.to_json` as one line; None is "not verified"."""
    if verification is None:
        return "not verified"
    figure, model, difference = verification["figure"], verification["model"], verification["largest_difference"]
    verdict = "verified with" if verification["agrees"] else "NOT confirmed by"
    # A difference that four decimals do not show is still one that the verdict may rest on.
    shown = f"{difference:.4f}" if verification["agrees"] or difference >= 5e-5 else f"{difference:.1e}"
    # Earlier versions verified all images.
    num_images, of_images = (verification.get(name, 0) for name in ("num_images", "of_images"))
    sample = f" on a sample of {num_images} of {of_images} images" if num_images < of_images else ""
    return (
        f"{verdict} {verification['evaluator']} {verification['version']}{sample}: largest difference {shown} "
        f"({figure}{f' of {model}' if model else ''})"
    )


def format_check(found: dict[str, Any]) -> str:
    """Format what `check_run` found."""
    lines = []
    for name, split in found["splits"].items():
        absent = f", {split['num_classes_absent']} classes absent" if split["num_classes_absent"] else ""
        kind = "federated" if split["is_federated"] else "fully annotated"
        lines.append(
            f"{name:<12} {split['num_images']} images, {split['num_instances']} instances, "
            f"{split['num_classes']} classes ({kind}){absent}"
        )
        if "turned" in split:
            lines.append(f"{'':<12} {split['turned']}")
    if "unannotated" in found:
        lines.append(f"{'images':<12} {found['unannotated']}")
    groups = ", ".join(f"{num} {group}" for group, num in found["frequency_groups"].items())
    lines.append(f"{'classes':<12} {groups} by training images")
    if "portion" in found:
        lines.append(f"{'portion':<12} {found['portion']}")
    lines.append(f"{'labels':<12} {found['use_of_labels']}")
    pool = found["pool"]
    truth = ", truth known" if pool["truth_known"] else ""
    if pool.get("as_stored") is False:
        truth += ", read as displayed where the size does not tell"
    if "truth_misses" in pool:
        truth += f" (WARNING: {pool['truth_misses']})"
    left_out = f"; {pool['left_out']}" if "left_out" in pool else ""
    lines.append(f"{'pool':<12} {pool['num_images']} images in {pool['num_shards']} shards{truth}{left_out}")
    if "in_validation" in pool:
        lines.append(f"{'':<12} {pool['in_validation']} images are in validation and left out")
    if "compared" in pool:
        lines.append(f"{'':<12} {pool['compared']}")
    lines += [f"{'overlap':<12} {one['text']}" for one in found["overlaps"] if not one["is_harmful"]]
    lines.append(f"{'disk':<12} {found['disk']}")
    if found["teacher"]:
        lines.append(f"{'teacher':<12} {found['teacher']}")
    if found["corrector"]:
        lines.append(f"{'corrector':<12} {found['corrector']}")
    lines.append(f"{'cluster':<12} run and label check CPUs and GPUs before they begin, because they join the cluster")
    lines.append(f"{'run':<12} {found['run']}, can be written")
    lines += [f"  {stage:<11} {state}" for stage, state in found["stages"].items()]
    for number, stages in found["rounds"].items():
        lines.append(f"round {number:<6} " + ", ".join(f"{stage} {state}" for stage, state in stages.items()))
    lines += [f"{'WARNING':<12} {remark}" for remark in found["remarks"]]
    return "\n".join(lines)


def format_status(status: dict[str, Any]) -> str:
    """Format what `run_status` found."""
    lines = [f"run {status['run']}"]
    for one in status["stages"]:
        seconds = f"{one['seconds']:.0f} s" if one["seconds"] is not None else ""
        lines.append(f"  {one['stage']:<11} {one['state']:<12} {seconds:>7}  {one['fingerprint'] or ''}".rstrip())
    labels = status["labels"]
    if labels:
        rate = labels["images_per_second_per_worker"]
        lines.append(
            f"  labels: {labels['shards_done']}/{labels['shards_total']} shards, "
            f"{labels['images_done']}/{labels['images_total']} images"
            + (f", {rate:g} images/s per worker" if rate else "")
            + f", {labels['num_instances']} instances, {labels['num_quarantined']} images quarantined"
            + (f", {labels['num_in_validation']} in validation and left out" if labels["num_in_validation"] else "")
        )
        if any(labels["seconds_by_phase"].values()):
            lines.append(f"  {format_seconds_by_phase(labels['seconds_by_phase'])}")
        if labels["slowest_shards"]:
            lines.append(format_slowest_shards(labels["slowest_shards"]))
    if status["classes"]:
        lines.append(format_classes(status["classes"]))
    lines += [format_progress(progress) for progress in status["progress"].values()]
    lines += [format_snapshot(stage, snapshot) for stage, snapshot in status["live"].items()]
    for number, of_round in status["rounds"].items():
        shown = [one for one in of_round["stages"] if one["stage"] in ("teacher", *ROUND_STAGES)]
        lines += [f"round {number}: {format_status(of_round | {'stages': shown}).removeprefix('run ')}"]
    return "\n".join(lines)


DROPPED_BY = {
    "score": "calibrated score below selection.min_score",
    "mask_quality": "mask quality below selection.min_mask_quality",
    "area": "mask smaller than selection.min_area",
    "max_per_image": "beyond selection.max_per_image",
}
"""What each of `selection.REASONS` means."""


def format_classes(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of schema.CLASS_FATES as a table. "–" means that the class has no prediction, or none was dropped."""
    width = max(5, *(len(row["name"]) for row in rows))
    lines = [
        f"  {'class':<{width}}  group  predictions  highest score  needed    kept  most frequent reason of drops",
    ]
    for row in rows:
        reason = row["most_frequent_reason"]
        highest = "–" if row["max_calibrated_score"] is None else f"{row['max_calibrated_score']:.3f}"
        why = f"{DROPPED_BY[reason]} ({row[f'num_dropped_{reason}']:,})" if reason else "–"
        lines.append(
            f"  {row['name']:<{width}}  {row['frequency_group']:<5}  {row['num_predictions']:>11,}  "
            f"{highest:>13}  {row['min_score']:>6.2f}  {row['num_kept']:>6,}  {why}"
        )
    return "\n".join(lines)


def format_seconds_by_phase(totals: Mapping[str, float]) -> str:
    """Format each phase's share of all seconds as one line."""
    seconds = sum(totals.values())
    shares = ", ".join(f"{phase} {value / seconds:.0%}" for phase, value in totals.items() if value)
    return f"where the time goes: {shares} of {seconds:,.0f} s of workers"


def format_slowest_shards(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the slowest shards as a table. "–" means that the worker did not report the value."""
    columns = ("seconds", *(f"{phase}_seconds" for phase in SHARD_PHASES))
    lines = [
        f"  {'shard':>9}{'images':>8}{'images/s':>10}"
        + "".join(f"{name.removesuffix('_seconds'):>9}" for name in columns)
        + "  host"
    ]
    lines += [
        f"  {row['shard_id']:>9}{row['num_images']:>8}{row['images_per_second']:>10.1f}"
        + "".join(f"{'–' if row[name] is None else format(row[name], '.2f'):>9}" for name in columns)
        + f"  {row['host'] or '–'}"
        for row in rows
    ]
    return "\n".join(lines)


STALE_SECONDS = 60.0
"""Age of a progress file that means "no driver at work". A driver writes the file every few seconds."""


def format_progress(progress: Mapping[str, Any]) -> str:
    """Format a stage's progress as one line."""
    return f"  {progress['label']}: {Figures(**progress['figures']).text()}  ({_seen(progress['age_seconds'])})"


def _seen(age_seconds: float) -> str:
    if age_seconds < STALE_SECONDS:
        return f"{age_seconds:.0f} s ago"
    return f"{age_seconds / 60:.0f} min ago: no driver is at work"


def format_snapshot(stage: str, snapshot: Mapping[str, Any]) -> str:
    """Format a live calibration as lines."""
    is_matched, seen = snapshot["is_matched"], _seen(snapshot["age_seconds"])
    about = "so far, not the result" if is_matched else "no truth: the corrector gives accuracy and CCECE"
    columns = [("confidence", "mean_confidence")]
    if is_matched:
        columns += [("accuracy", "accuracy"), ("CCECE", "ccece"), ("debiased", "ccece_debiased")]
    else:
        columns += [("exp. accuracy", "expected_accuracy"), ("exp. CCECE", "expected_ccece")]
    widths = [max(len(name), 6) for name, _ in columns]
    shards = f"{snapshot['shards_counted']}/{snapshot['shards_total']} shards"
    lines = [
        f"  live {stage}: raw scores of {shards}, {seen} ({about})",
        f"    {'group':<9}{'classes':>8}{'predictions':>13}"
        + "".join(f"  {name:>{width}}" for (name, _), width in zip(columns, widths, strict=True)),
    ]
    for letter, figures in snapshot["groups"].items():
        cells = ["–" if figures[key] is None else f"{figures[key]:.3f}" for _, key in columns]
        lines.append(
            f"    {group_title(letter):<9}{figures['num_classes']:>8}{figures['num_predictions']:>13,.0f}"
            + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)


def format_summary(summary: Mapping[str, Any]) -> str:
    """Format a calibration summary: counts, and each figure raw and calibrated."""
    chosen = summary["corrector_chosen"]
    choice = summary["corrector"] if chosen == summary["corrector"] else f"{summary['corrector']} chose {chosen}"
    num_without = summary.get("num_images_without_detection", 0)
    raw, calibrated = summary["raw"], summary["calibrated_cross_validated"]
    figures = [(name, raw[key], calibrated[key]) for name, key in (("NLL", "nll"), ("Brier", "brier"), ("ECE", "ece"))]
    for group, counts in summary["groups"].items():
        label = (
            f"CCECE {group} ({counts['num_classes_with_detections']} classes, {counts['num_detections']} detections)"
        )
        figures.append((label, raw["ccece"][group], calibrated["ccece"][group]))
    lines = [
        f"{summary['num_detections']} detections on {summary['num_images']} images: {summary['num_correct']} correct, "
        f"{summary['num_incorrect']} incorrect, {summary['num_ignored']} ignored",
        *format_misses(num_without, num_without + summary["num_images"]),
        f"corrector: {choice}",
        *_notes(summary),
        f"{'':<44}{'raw':>8}{'calibrated':>12} (cross-validated by image)",
    ]
    for name, before, after in figures:
        cells = ["–" if value is None else f"{value:.4f}" for value in (before, after)]
        lines.append(f"  {name:<42}{cells[0]:>8}{cells[1]:>12}")
    return "\n".join(lines)


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what a user of an external detector must know about the corrector, one line per fact."""
    notes = []
    if summary["corrector_chosen"] == "norcal" and "train_counts_of" in summary:
        notes.append(f"norcal: image counts of the classes are those of {summary['train_counts_of']}")
    if summary.get("correct_needs_annotations"):
        notes.append("correct: polygons need the size of their image, so give raylabel correct --annotations too")
    return notes
