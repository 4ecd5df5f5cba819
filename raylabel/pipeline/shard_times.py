"""Where the time of the label stage goes: seconds of its committed shards by phase, and its slowest shards."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raylabel.schema import SHARD_PHASES

OTHER = "other"
"""Seconds of a shard that are none of its phases': markers, waiting for a turn."""


def seconds_by_phase(shards: pa.Table) -> dict[str, float]:
    """Workers' seconds in all, by phase and for the rest.

    Args:
        shards: of schema.SHARDS.
    """
    totals = {phase: float(pc.sum(shards[f"{phase}_seconds"]).as_py() or 0.0) for phase in SHARD_PHASES}
    seconds = float(pc.sum(shards["seconds"]).as_py() or 0.0)
    return totals | {OTHER: max(0.0, seconds - sum(totals.values()))}


def slowest_shards(shards: pa.Table, num: int) -> list[dict[str, Any]]:
    """Rows of schema.SHARDS of the shards that took longest, slowest first, with `images_per_second`."""
    order = pc.sort_indices(shards, sort_keys=[("seconds", "descending"), ("shard_id", "ascending")])
    rows = shards.take(order[:num]).to_pylist()
    return [row | {"images_per_second": row["num_images"] / max(row["seconds"], 1e-3)} for row in rows]


def format_seconds_by_phase(totals: Mapping[str, float]) -> str:
    """Shares of all seconds, as a line of text."""
    seconds = sum(totals.values())
    shares = ", ".join(f"{phase} {value / seconds:.0%}" for phase, value in totals.items() if value)
    return f"where the time goes: {shares} of {seconds:,.0f} s of workers"


def format_slowest_shards(rows: Sequence[Mapping[str, Any]]) -> str:
    """As a table of text; "–" is what the shard's worker did not say."""
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
