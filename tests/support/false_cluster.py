"""A cluster as Ray would describe it, without any Ray."""

from typing import Any

import pytest
import ray


def node(**resources: float) -> dict[str, Any]:
    """A machine with these resources."""
    return {"Alive": True, "NodeID": str(resources), "Resources": resources}


def set_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any]) -> None:
    """Let Ray say that its cluster has these machines."""
    monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
    totals = {name: sum(one["Resources"].get(name, 0) for one in nodes if one["Alive"]) for name in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "cluster_resources", lambda: totals)
