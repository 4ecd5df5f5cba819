"""Content of the report's sections, read from a run's files. None means that the stage has not run."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.report.calibration_view import calibration_view
from raylabel.report.plots import panels_png
from raylabel.run.calibration import (
    load_bins,
    load_classes_table,
    load_cross_validated_bins,
    load_detections_table,
)
from raylabel.run.folder import STAGES, RunFolder, stage_folder
from raylabel.run.labels.totals import load_errors, load_in_validation
from raylabel.run.learnt_from import LearntFrom
from raylabel.run.models import BASELINE, EMBEDDER, STUDENT, TEACHER, load_training_log
from raylabel.run.rounds import ROUND_STAGES, baseline_calibration, is_calibrated, round_run, student_calibration

ARMS = {
    "teacher": "trained on the labelled images; it labelled the pool",
    "supervised": "baseline: starts and trains like the student, on its labelled images alone",
    "supervised+corrector": "the baseline with the scores that its own corrector gives",
    "student": "distilled from labelled images and pseudo-labels",
    "student+corrector": "the student with the scores that its own corrector gives",
}
"""Compared models, each with a description."""

_MAX_QUARANTINED = 200
_METRICS = ("AP", "AP50", "AP75", "APr", "APc", "APf", "APs", "APm", "APl", "AR@300", "AR100")


def precision_table(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """Make the table of AP of every model on the validation split.

    Cells have half widths of 95% intervals if these are known. The best cell of a column is marked unless all are
    equal.
    """
    arms: dict[str, dict[str, float | None]] = (metrics or {}).get("validation") or {}
    if not arms:
        return None
    half_widths: dict[str, dict[str, float]] = (metrics or {}).get("validation_half_widths") or {}
    names = [name for name in _METRICS if any(name in figures for figures in arms.values())]
    best = {name: _best([figures.get(name) for figures in arms.values()]) for name in names}
    rows = []
    for arm in sorted(arms, key=lambda arm: list(ARMS).index(arm) if arm in ARMS else len(ARMS)):
        cells = [
            {
                "value": value,
                "is_best": value is not None and value == best[name],
                "half_width": half_widths.get(arm, {}).get(name),
            }
            for name, value in ((name, arms[arm].get(name)) for name in names)
        ]
        known = (metrics or {}).get("learnt_from", {}).get(arm.partition("+")[0])
        learnt = LearntFrom(**known).text() if known else None
        rows.append({"arm": arm, "about": _about(arm), "learnt_from": learnt, "cells": cells})
    return {"names": names, "rows": rows}


def difference_table(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """Make the table of each model minus the base, with 95% intervals. Intervals without 0 are marked."""
    differences = (metrics or {}).get("validation_differences")
    if not differences or not differences["models"]:
        return None
    models: dict[str, dict[str, dict[str, float]]] = differences["models"]
    names = [name for name in _METRICS if any(name in of_arm for of_arm in models.values())]
    rows = []
    for arm in sorted(models, key=lambda arm: list(ARMS).index(arm) if arm in ARMS else len(ARMS)):
        known = [models[arm].get(name) for name in names]
        cells = [one and one | {"is_sure": abs(one["value"]) > one["half_width"]} for one in known]
        rows.append({"arm": arm, "cells": cells})
    return {"from": differences["from"], "names": names, "rows": rows}


def _about(arm: str) -> str:
    """Describe a model. The student of round N is called student-N."""
    student, plus, _ = arm.partition("+")
    if student.startswith("student-"):
        number = int(student.removeprefix("student-"))
        of_round = f"round {number}: distilled from pseudo-labels of round {number - 1}'s student"
        return f"{of_round}; with its own corrector on its scores" if plus else of_round
    return ARMS.get(arm, "")


def _best(values: Sequence[float | None]) -> float | None:
    """Return the highest value, or None if all are equal."""
    known = {value for value in values if value is not None}
    return max(known) if len(known) > 1 else None


def calibration_section(run: RunFolder) -> dict[str, Any] | None:
    """Make the diagrams and tables of the calibration split."""
    artifact = run.artifact(stage_folder("calibrate"))
    if artifact is None:
        return None
    before, held_out, detections = load_bins(run), load_cross_validated_bins(run), load_detections_table(run)
    after = _fitted_bins(detections, before) if held_out is None else held_out
    return calibration_view(
        classes=load_classes_table(run),
        detections=detections,
        raw_bins=before,
        calibrated_bins=after,
        summary=artifact,
        is_held_out=held_out is not None,
    )


def _fitted_bins(table: pa.Table, before: ReliabilityBins) -> ReliabilityBins:
    """Bin the applied corrector's scores of the detections that it was fitted to."""
    detections = Detections(
        num_classes=before.num_classes,
        class_indices=table["class_index"].to_numpy(),
        raw_scores=table["raw_score"].to_numpy().astype(np.float64),
        image_indices=np.zeros(table.num_rows, np.int64),
        outcomes=table["outcome"].to_numpy(),
        weights=table["weight"].to_numpy().astype(np.float64),
    )
    scores = table["calibrated_score"].to_numpy().astype(np.float64)
    return ReliabilityBins.from_detections(detections, before.num_bins, scores=scores)


def quarantined(run: RunFolder) -> dict[str, Any] | None:
    """Count the images that could not be labelled by reason, and those in validation. List the first 200 of each."""
    errors, left_out = load_errors(run), load_in_validation(run)
    if errors is None:
        return None
    counted = pc.value_counts(errors["reason"]).to_pylist()
    reasons = sorted(((one["values"], one["counts"]) for one in counted), key=lambda one: -one[1])
    return {
        "num": len(errors),
        "reasons": reasons,
        "rows": errors.slice(0, _MAX_QUARANTINED).to_pylist(),
        "num_in_validation": len(left_out or ()),
        "in_validation": left_out.slice(0, _MAX_QUARANTINED).to_pylist() if left_out else [],
    }


TRAINED = {
    "warm-up": EMBEDDER,
    "teacher": TEACHER,
    "student": STUDENT,
    "supervised": BASELINE,
}
"""Models whose training the report shows -> folder of their metrics.jsonl."""

_PANELS = {
    "loss": "loss",
    "moving average, AP on validation images": "ema_AP",
    "learning rate": "learning_rate",
    "norm of the gradient": "gradient_norm",
    "images/s": "images_per_second",
    "share of time waiting for images": "data_wait",
}


def training_curves(run: RunFolder) -> bytes | None:
    """Draw the training of every model that left a metrics.jsonl, over optimizer steps.

    Panels without figures are left out. A row is the mean over some steps. A curve of many rows is smoothed over a
    fifteenth of them.
    """
    logs = {name: rows for name, folder in TRAINED.items() if (rows := load_training_log(run, folder))}
    panels = {
        title: {name: curve for name, rows in logs.items() if (curve := _curve(rows, key)) is not None}
        for title, key in _PANELS.items()
    }
    drawn = {title: curves for title, curves in panels.items() if curves}
    return panels_png(drawn, x_label="optimizer step") if drawn else None


def _curve(rows: Sequence[dict[str, float]], key: str) -> tuple[list[float], list[float]] | None:
    points = [(row["step"], row[key]) for row in rows if key in row]
    if len(points) < 2:
        return None
    steps, values = np.array(points, dtype=float).T
    width = max(1, len(values) // 15) if key not in ("ema_AP", "learning_rate") else 1
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    return steps[width - 1 :].tolist(), means.tolist()


def lineage(run: RunFolder, *, num_rounds: int = 1) -> list[dict[str, Any]]:
    """Return the artifact of every stage, or None if it has not run. Further rounds come last."""
    parts = [(run, spec.folder) for spec in STAGES if spec.name != "report"]
    of_round = ["teacher", *ROUND_STAGES]
    parts += [(round_run(run, number), stage_folder(name)) for number in range(2, num_rounds + 1) for name in of_round]
    nested = (student_calibration(run), baseline_calibration(run))
    parts += [(one, stage_folder("calibrate")) for one in nested if is_calibrated(one)]
    rows = []
    for one, folder in parts:
        artifact = one.artifact(folder)
        row: dict[str, Any] = {"folder": one.title(folder), "artifact": artifact}
        if artifact is not None:
            inputs = artifact.get("inputs") or {}
            row["inputs"] = [(name, _short(value)) for name, value in inputs.items()]
            row["json"] = json.dumps(artifact, indent=1)
        rows.append(row)
    return rows


def _short(value: Any) -> str:
    """Cut digests to 12 digits, and format settings as compact JSON."""
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return json.dumps(value)
