"""What each section of the report says, read from a run's files; None where the stage has not run."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.detections import Detections
from raylabel.files.storage import exists, read_bytes, read_json, read_table
from raylabel.report.calibration_view import calibration_view
from raylabel.report.plots import panels_png
from raylabel.run.folder import RunFolder

STAGE_FOLDERS = ("prototypes", "teacher", "calibration", "labels", "student", "evaluation")
"""Folders of the stages that the report tells of, in the order of the stages."""

STUDENT_CALIBRATION = "student-calibration/calibration"
"""Of the last student."""

ROUND_FOLDERS = ("teacher", "calibration", "labels", "student")
"""Folders of a further round."""

ARMS = {
    "teacher": "trained on the labelled images; it labelled the pool",
    "supervised": "baseline: labelled images only, as many optimizer steps and images as the student",
    "student": "distilled from labelled images and pseudo-labels",
    "student+corrector": "the student with a corrector on its scores that was fitted to it on the calibration split",
}
"""Models that are compared, with what they are."""

_MAX_QUARANTINED = 200
_METRICS = ("AP", "AP50", "AP75", "APr", "APc", "APf", "APs", "APm", "APl", "AR@300", "AR100")


def read_categories(run: RunFolder) -> list[dict[str, Any]]:
    """The run's classes in the order of their index: category_id, name, frequency_group, num_train_images."""
    uri = run.path("classes.json")
    return read_json(uri)["categories"] if exists(uri) else []


def precision_table(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """AP of every model on the validation split, as measured, with half widths of 95% intervals where they are known;
    the best of each column is marked unless all are equal."""
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
        rows.append({"arm": arm, "about": _about(arm), "cells": cells})
    return {"names": names, "rows": rows}


def difference_table(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """Each model minus one of them, with 95% intervals; those that don't contain 0 are marked."""
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
    """What a model is; the student of round N is called student-N."""
    student, plus, _ = arm.partition("+")
    if student.startswith("student-"):
        number = int(student.removeprefix("student-"))
        of_round = f"round {number}: distilled from pseudo-labels of round {number - 1}'s student"
        return f"{of_round}; with its own corrector on its scores" if plus else of_round
    return ARMS.get(arm, "")


def _best(values: Sequence[float | None]) -> float | None:
    """The highest, unless all are equal."""
    known = {value for value in values if value is not None}
    return max(known) if len(known) > 1 else None


def calibration_section(run: RunFolder) -> dict[str, Any] | None:
    """Diagrams and tables of the calibration split."""
    artifact = run.artifact("calibration")
    if artifact is None:
        return None
    before = ReliabilityBins.from_table(read_table(run.path("calibration", "bins.parquet")))
    detections = read_table(run.path("calibration", "detections.parquet"))
    held_out_uri = run.path("calibration", "bins_cross_validated.parquet")
    is_held_out = exists(held_out_uri)
    after = ReliabilityBins.from_table(read_table(held_out_uri)) if is_held_out else _fitted_bins(detections, before)
    return calibration_view(
        classes=read_table(run.path("calibration", "classes.parquet")),
        detections=detections,
        raw_bins=before,
        calibrated_bins=after,
        summary=artifact,
        is_held_out=is_held_out,
    )


def _fitted_bins(table: pa.Table, before: ReliabilityBins) -> ReliabilityBins:
    """Bins of the scores of the corrector as it is applied, on the detections that it was fitted to."""
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
    """Images that could not be labelled, counted by reason; the first 200 by name."""
    uri = run.path("labels", "errors.parquet")
    if not exists(uri):
        return None
    rows = read_table(uri).to_pylist()
    reasons = Counter(row["reason"] for row in rows).most_common()
    return {"num": len(rows), "reasons": reasons, "rows": rows[:_MAX_QUARANTINED]}


TRAINED = {
    "warm-up": "prototypes/embedder",
    "teacher": "teacher",
    "student": "student",
    "supervised": "student/supervised",
}
"""Models whose training the report shows, and where their metrics.jsonl is."""

_PANELS = {
    "loss": "loss",
    "moving average, AP on validation images": "ema_AP",
    "learning rate": "learning_rate",
    "norm of the gradient": "gradient_norm",
    "images/s": "images_per_second",
    "share of time waiting for images": "data_wait",
}


def training_curves(run: RunFolder) -> bytes | None:
    """How the training of every model went that left a metrics.jsonl, over optimizer steps; panels without any figure
    are left out. Rows are means over some steps already, and of long trainings a fifteenth of the rows is averaged."""
    logs: dict[str, list[dict[str, float]]] = {}
    for name, folder in TRAINED.items():
        uri = run.path(folder, "metrics.jsonl")
        if exists(uri):
            logs[name] = [json.loads(line) for line in read_bytes(uri).decode().splitlines()]
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
    """What every stage said of itself, or that it has not run; those of further rounds behind the others."""
    rounds = [f"round-{number}/{folder}" for number in range(2, num_rounds + 1) for folder in ROUND_FOLDERS]
    if run.artifact(STUDENT_CALIBRATION) is not None:
        rounds.append(STUDENT_CALIBRATION)
    rows = []
    for folder in (*STAGE_FOLDERS, *rounds):
        artifact = run.artifact(folder)
        row: dict[str, Any] = {"folder": folder, "artifact": artifact}
        if artifact is not None:
            inputs = artifact.get("inputs") or {}
            row["inputs"] = [(name, _short(value)) for name, value in inputs.items()]
            row["json"] = json.dumps(artifact, indent=1)
        rows.append(row)
    return rows


def _short(value: Any) -> str:
    """Digests cut to 12 digits, settings as compact JSON."""
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return json.dumps(value)
