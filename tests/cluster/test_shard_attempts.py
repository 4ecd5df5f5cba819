"""A shard at which each worker dies ends the stage, and the line says if memory was short."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raylabel.cluster import map_shards
from raylabel.cluster.memory import killed_text
from raylabel.cluster.shard_attempts import MAX_DEATHS, ShardAttempts
from raylabel.errors import InputError


class Worker:
    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        return pa.table({"shard_id": [shard["shard_id"]]})


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An instance of the actor's class, without Ray, whose calls are answered at once."""
    monkeypatch.setattr(map_shards.ray, "get", lambda answer: answer)
    counted = ShardAttempts.__ray_metadata__.modified_class()  # type: ignore[attr-defined]  # of ray.remote
    return SimpleNamespace(begin=SimpleNamespace(remote=counted.begin), finish=SimpleNamespace(remote=counted.finish))


def made(attempts: Any, shard_id: int) -> pa.Table:
    """Let a new worker make a shard."""
    actor = map_shards.ShardActor(Worker, {}, 1, attempts)
    [table] = map_shards.shard_tables(actor({"shard": np.array([json.dumps({"shard_id": shard_id})])}))
    return table


@pytest.mark.parametrize(
    ("killed", "why"),
    [
        ([], ""),
        (
            ["20.0 of 23.5 GB in use", "22.3 of 23.5 GB in use"],
            " 2 workers were killed because their machine ran low on memory (22.3 of 23.5 GB in use). Raise "
            "label.memory_gb, so that fewer workers share a machine, or lower num_workers or the batch size.",
        ),
    ],
)
def test_ten_deaths_at_a_shard_end_the_stage(
    attempts: Any, monkeypatch: pytest.MonkeyPatch, killed: list[str], why: str
) -> None:
    monkeypatch.setattr(map_shards, "killed_for_memory", lambda: dict(enumerate(killed)))
    for _ in range(MAX_DEATHS - 1):
        attempts.begin.remote(3)  # a worker that dies
    assert made(attempts, 3)["shard_id"].to_pylist() == [3], "the tenth attempt works"
    for _ in range(MAX_DEATHS):
        attempts.begin.remote(3)
    with pytest.raises(InputError) as refused:
        made(attempts, 3)
    assert str(refused.value) == f"10 workers died at shard 3, and none finished it.{why}"
    assert made(attempts, 4)["shard_id"].to_pylist() == [4], "other shards have their own count"


def test_a_report_without_figures_is_said_without_them() -> None:
    assert killed_text([""], setting="label.memory_gb").startswith(
        "1 workers were killed because their machine ran low on memory. Raise label.memory_gb"
    )
