"""The Grafana dashboard shows metrics that exist, and all its references resolve."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from raylabel.cluster import prometheus

PATH = Path(__file__).resolve().parents[2] / "k8s" / "monitoring" / "grafana-dashboard.json"
DASHBOARD: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))

COUNTERS_AND_GAUGES = (
    prometheus.IMAGES,
    prometheus.INSTANCES,
    prometheus.QUARANTINED_IMAGES,
    prometheus.SHARDS,
    prometheus.PHASE_SECONDS,
    prometheus.IMAGES_LEFT,
)
EXPORTED = {f"ray_{name}" for name in COUNTERS_AND_GAUGES} | {
    f"ray_{prometheus.SHARD_SECONDS}_{part}" for part in ("bucket", "sum", "count")
}
"""Metrics of the label stage, as `tests/cluster/test_prometheus.py` scrapes them."""


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_it_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD, "Grafana gives the id"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_metric_is_one_that_is_exported() -> None:
    of_ray = {f"ray_{name}" for name in METRICS_GAUGES}
    shown = set()
    for title, expression in expressions():
        names = set(re.findall(r"\b(?:ray_|raylabel_)\w+", expression))
        assert names, title
        assert names <= EXPORTED | of_ray, title
        shown |= names
    assert {name for name in EXPORTED if not name.endswith(("_sum", "_count"))} <= shown, "every metric has a panel"


def test_what_is_asked_for_is_shown() -> None:
    titles = {panel["title"] for panel in DASHBOARD["panels"]}
    assert {
        "Images/s",
        "Instances/s",
        "Time left",
        "Quarantined",
        "Seconds a shard, by phase",
        "GPU utilisation",
    } <= titles


def test_variables_are_declared_and_used() -> None:
    text = PATH.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == {one["name"] for one in DASHBOARD["templating"]["list"]}
    sources = [panel["datasource"] for panel in DASHBOARD["panels"]]
    sources += [target["datasource"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_expressions_are_whole() -> None:
    for title, expression in expressions():
        for opening, closing in ("()", "[]", "{}"):
            assert expression.count(opening) == expression.count(closing), title
        of_run = re.findall(r"ray_raylabel_\w+(\{[^}]*\})?", expression)
        assert all(selector == '{run=~"$run"}' for selector in of_run), title
        # A counter is read only through its rate. A gauge has no rate.
        for name, window in re.findall(r"\b(\w+)\{[^}]*\}(\[\w+\])?", expression):
            assert bool(window) == (name != f"ray_{prometheus.IMAGES_LEFT}"), title


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_legends_name_labels_that_the_expression_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            assert not kept or any(label in re.split(r",\s*", one) for one in kept), panel["title"]
