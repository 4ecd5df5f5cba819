"""The report's section on drift between the calibration split and the pool."""

from collections.abc import Sequence
from typing import Any

from raylabel.run.drift import load_drift
from raylabel.run.folder import RunFolder, stage_folder


def drift_section(run: RunFolder, categories: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the label artifact's summary of drift, and one row per drifted class, the surest first.

    None means that drift was not measured.
    """
    summary = (run.artifact(stage_folder("label")) or {}).get("drift")
    drift = load_drift(run)
    if summary is None or drift is None:
        return None
    rows = [
        row | {"name": category["name"], "frequency_group": category["frequency_group"]}
        for row, category in zip(drift.to_pylist(), categories, strict=True)
        if row["scores_drifted"] or row["rate_drifted"]
    ]
    return {"summary": summary, "rows": sorted(rows, key=_p_value)}


def _p_value(row: dict[str, Any]) -> float:
    named = [("psi_p_value", "scores_drifted"), ("rate_p_value", "rate_drifted")]
    return min(row[p_value] for p_value, is_drifted in named if row[is_drifted])
