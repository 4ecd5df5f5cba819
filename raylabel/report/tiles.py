"""The tiles at the head of the report: what the user had, what came out, what it cost."""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from raylabel.run.learnt_from import SUPERVISED, LearntFrom

Tile = dict[str, str]
"""`name`, `figure`, and `note`: what to compare the figure with."""


def headline_tiles(
    metrics: dict[str, Any] | None,
    calibration: dict[str, Any] | None,
    labels: dict[str, Any] | None,
    *,
    seconds: float,
) -> list[Tile]:
    """Make the tiles of what is known.

    Args:
        metrics: content of evaluation/metrics.json.
        calibration: the report's section of the calibration split.
        labels: artifact of the labels.
        seconds: duration of all stages.
    """
    return [
        *_images(metrics or {}, labels),
        *_precision(metrics or {}),
        *_cost(metrics or {}, seconds),
        *_calibration(metrics or {}, calibration),
        *_pseudo_labels(metrics or {}, labels),
    ]


def _images(metrics: Mapping[str, Any], labels: Mapping[str, Any] | None) -> list[Tile]:
    """What the user had."""
    known = metrics.get("learnt_from", {}).get("student")
    if not known:
        return []
    learnt = LearntFrom(**known)
    kept = f"{learnt.calibration:,} of them also calibrated the scores; " if learnt.calibration else ""
    pool = (labels or {}).get("num_images", learnt.pool)
    return [
        {
            "name": "labelled images",
            "figure": f"{learnt.labelled + learnt.calibration:,}",
            "note": f"{kept}{pool:,} images without labels",
        }
    ]


def _precision(metrics: Mapping[str, Any]) -> list[Tile]:
    """What came out, against supervised training on the same labels."""
    arms = metrics.get("validation") or {}
    compared = metrics.get("validation_differences") or {}
    differences = compared.get("models", {}).get("student", {}) if compared.get("from") == SUPERVISED else {}
    tiles = []
    for name, about in (("AP", "mask AP"), ("APr", "mask AP, rare classes")):
        figures = {arm: values.get(name) for arm, values in arms.items()}
        if figures.get("student") is None:
            continue
        others = [f"{arm} {hundredfold(figures[arm])}" for arm in (SUPERVISED, "teacher") if arm in figures]
        if gap := differences.get(name):
            value, half_width = (
                f"{100 * gap[part]:{form}}" for part, form in (("value", "+.1f"), ("half_width", ".1f"))
            )
            others.insert(0, f"{value} ± {half_width} over supervised training on the same labels")
        tiles.append({"name": f"student {about}", "figure": hundredfold(figures["student"]), "note": "; ".join(others)})
    return tiles


def _cost(metrics: Mapping[str, Any], seconds: float) -> list[Tile]:
    """What it cost."""
    known = metrics.get("learnt_from", {})
    if "student" not in known:
        return []
    note = f"{known['student']['steps']:,} optimizer steps in all"
    if SUPERVISED in known:
        note += f"; the supervised model took {known[SUPERVISED]['steps']:,}"
    return [{"name": "time of all stages", "figure": duration(seconds), "note": note}]


def _calibration(metrics: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> list[Tile]:
    pool = metrics.get("pool") or {}
    where, compared = "on the pool, against its hidden truth", pool
    if "raw" not in pool:
        summary = (calibration or {}).get("summary") or {}
        where = "on the calibration split, cross-validated"
        compared = {"raw": summary.get("raw"), "calibrated": summary.get("calibrated_cross_validated")}
    tiles = []
    for name in ("ece", "nll"):
        raw, calibrated = ((compared.get(kind) or {}).get(name) for kind in ("raw", "calibrated"))
        if raw is not None and calibrated is not None:
            figure = f"{decimal(raw)} → {decimal(calibrated)}"
            tiles.append({"name": f"{name.upper()}, raw → calibrated", "figure": figure, "note": where})
    return tiles


def _pseudo_labels(metrics: Mapping[str, Any], labels: Mapping[str, Any] | None) -> list[Tile]:
    selection = (labels or {}).get("selection")
    if not labels or not selection:
        return []
    note = f"of {labels['num_instances']:,} predictions" if "num_instances" in labels else ""
    selected = (metrics.get("pool") or {}).get("selected")
    if selected:
        note += f"; precision {decimal(selected['precision'])}, recall {decimal(selected['recall'])}"
    return [{"name": "pseudo-labels kept", "figure": f"{selection['kept']:,}", "note": note}]


def hundredfold(value: float | None) -> str:
    """Format a share times 100, or "–" if it is unknown."""
    return f"{100 * value:.1f}" if _is_known(value) else "–"


def decimal(value: float | None, form: str = ".3f") -> str:
    """Format a figure, or "–" if it is unknown."""
    return format(value, form) if _is_known(value) else "–"


def duration(seconds: float) -> str:
    """Format seconds as hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)
