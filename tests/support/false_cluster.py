"""A cluster as Ray would describe it, without Ray."""

from typing import Any

import pytest
import ray


def node(**resources: float) -> dict[str, Any]:
    """Return a machine with these resources."""
    return {"Alive": True, "NodeID": str(resources), "Resources": resources}


def set_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any]) -> None:
    """Make Ray report a cluster of these machines."""
    monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
    totals = {name: sum(one["Resources"].get(name, 0) for one in nodes if one["Alive"]) for name in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "cluster_resources", lambda: totals)
