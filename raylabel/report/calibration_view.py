"""Content of a page's calibration parts, made from calibration tables of a run or of any detector."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.calibration.bins import ReliabilityBins
from raylabel.calibration.metrics.binned import class_bias, group_masks
from raylabel.dataset.frequency import group_title
from raylabel.report.page_titles import page_titles
from raylabel.report.plots import bars_png, png
from raylabel.report.reliability import choose_classes, class_panels, reliability_figure, reliability_png
from raylabel.report.reliability_curve import FEW, MeanWeights, mean_weights


def calibration_view(
    *,
    classes: pa.Table,
    detections: pa.Table,
    raw_bins: ReliabilityBins,
    calibrated_bins: ReliabilityBins,
    summary: Mapping[str, Any],
    is_held_out: bool = True,
    image_kind: str = "training",
) -> dict[str, Any]:
    """Make the diagrams and rows that `calibration_parts.html` prints.

    Args:
        classes: schema.CLASSES.
        detections: schema.DETECTIONS; gives the weights.
        raw_bins: bins of the raw scores.
        calibrated_bins: bins of the calibrated scores.
        summary: `CalibrationTables.summary`.
        is_held_out: whether `calibrated_bins` are cross-validated.
        image_kind: kind of images that `num_train_images` counts, for headings.
    """
    masks = group_masks(np.array(classes["frequency_group"].to_pylist()))
    weights = mean_weights(
        *(detections[name].to_numpy() for name in ("class_index", "outcome", "weight")),
        num_classes=raw_bins.num_classes,
    )
    groups = _group_rows(masks, raw_bins, summary)
    bars = {"raw": [row["raw"] for row in groups], "calibrated, cross-validated": [row["calibrated"] for row in groups]}
    after_name = "calibrated, cross-validated by image" if is_held_out else "calibrated, on the images of the fit"
    return {
        "summary": summary,
        "num_bins": raw_bins.num_bins,
        "is_held_out": is_held_out,
        "few": int(FEW),
        "image_kind": image_kind,
        "groups": groups,
        "reliability_png": reliability_png(
            raw_bins, calibrated_bins, groups=masks, weights=weights, after_name=after_name
        ),
        "ccece_png": bars_png(bars, [group_title(row["letter"]) for row in groups], x_label="CCECE (lower is better)"),
        "class_diagrams": _class_diagrams(
            classes, raw_bins, calibrated_bins, weights, after_name=after_name, image_kind=image_kind
        ),
        "class_rows": class_rows(classes, raw_bins, calibrated_bins if is_held_out else None),
    }


def _group_rows(
    masks: Mapping[str, NDArray[np.bool_]], raw_bins: ReliabilityBins, summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
    raw, calibrated = summary["raw"], summary["calibrated_cross_validated"]
    return [
        {
            "letter": letter,
            **summary["groups"][letter],
            "num_ignored": raw_bins.num_ignored[mask].sum(),
            "raw": raw["ccece"][letter],
            "raw_debiased": raw["ccece_debiased"][letter],
            "calibrated": calibrated["ccece"][letter],
            "calibrated_debiased": calibrated["ccece_debiased"][letter],
        }
        for letter, mask in masks.items()
    ]


def _class_diagrams(
    classes: pa.Table,
    raw_bins: ReliabilityBins,
    calibrated_bins: ReliabilityBins,
    weights: MeanWeights,
    *,
    after_name: str,
    image_kind: str,
) -> list[dict[str, Any]]:
    names, num_train_images = classes["name"].to_pylist(), classes["num_train_images"].to_numpy()
    diagrams = []
    for choice in choose_classes(raw_bins, calibrated_bins, num_train_images, weights=weights):
        panels = class_panels(
            raw_bins,
            choice.class_indices,
            names=names,
            num_train_images=num_train_images,
            image_kind=image_kind,
        )
        figure = reliability_figure(raw_bins, calibrated_bins, panels, weights=weights, after_name=after_name)
        drawn = {"png": png(figure), "titles": page_titles(figure, panels)}
        diagrams.append({"heading": choice.heading, "num_classes": len(panels), **drawn})
    return diagrams


def class_rows(
    classes: pa.Table, raw_bins: ReliabilityBins, held_out_bins: ReliabilityBins | None
) -> list[dict[str, Any]]:
    """Return the rows of schema.CLASSES with mean raw confidence and cross-validated bias, the rarest class first."""
    num_classes = classes.num_rows
    num = raw_bins.num.sum(axis=1)
    confidences = np.divide(raw_bins.sum_confidence.sum(axis=1), num, out=np.full(len(num), np.nan), where=num > 0)
    biases = np.full(num_classes, np.nan) if held_out_bins is None else class_bias(held_out_bins)
    rows = [
        {
            **row,
            "mean_confidence": None if np.isnan(confidence) else float(confidence),
            "bias_calibrated": None if np.isnan(bias) else float(bias),
        }
        for row, confidence, bias in zip(classes.to_pylist(), confidences, biases, strict=True)
    ]
    return sorted(rows, key=lambda row: (row["num_train_images"], row["class_index"]))


# See OWASP, CSV injection. Spreadsheets also take the full-width forms.
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "＝", "＋", "－", "＠")


def classes_csv(classes: pa.Table, raw_bins: ReliabilityBins, held_out_bins: ReliabilityBins) -> bytes:
    """Format `class_rows` as comma-separated text for spreadsheets.

    The text has a heading and one line per class, the rarest first. A class without detections has empty cells. A name
    that spreadsheets would take for a formula starts with an apostrophe.

    Args:
        classes: schema.CLASSES.
        raw_bins: bins of the raw scores.
        held_out_bins: bins of cross-validated calibrated scores.
    """
    rows = class_rows(classes, raw_bins, held_out_bins)
    names = [name for name in (*classes.column_names, "mean_confidence", "bias_calibrated") if name != "class_index"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Format a value for a spreadsheet. Class names are other people's text, and must not become formulas."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return value
    line = " ".join(value.splitlines())  # because csv does not quote "\r", which begins a new row
    return f"'{line}" if line.lstrip(" \ufeff").startswith(_FORMULA_SIGNS) else line
