"""Memory of the cluster's machines: workers that Ray killed for want of it, as messages say it."""

import re
from collections.abc import Sequence
from contextlib import suppress

import ray

GB = 1e9

_USAGE = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")


def own_worker_id() -> str:
    """Return Ray's id of this worker. "" in a process without Ray."""
    return str(ray.get_runtime_context().get_worker_id()) if ray.is_initialized() else ""


def killed_for_memory() -> dict[str, str]:
    """Return how full the machine was when Ray's memory monitor killed a worker, for each such worker of the cluster.

    Ray keeps the reports of the latest dead workers. A worker that the kernel kills leaves no such report.

    Returns:
        Texts such as "22.3 of 23.5 GB in use" by the worker's id, in the order of the deaths. "" if Ray's report has no
        figures.
    """
    # Ray's own table of workers, because actors that restart hide the deaths, and `ray.util.state` needs a dashboard.
    # Another Ray may not have it. Then nothing is said.
    with suppress(ImportError, AttributeError, OSError, RuntimeError):
        from ray._private.state import state
        from ray.core.generated import common_pb2, gcs_pb2

        table = state._connect_and_get_accessor().get_worker_table()
        rows = [gcs_pb2.WorkerTableData.FromString(row) for row in table]  # type: ignore[attr-defined]  # generated
        killed = [row for row in rows if row.exit_type == common_pb2.NODE_OUT_OF_MEMORY]  # type: ignore[attr-defined]  # generated
        killed.sort(key=lambda row: row.end_time_ms)
        usage = {row.worker_address.worker_id.hex(): _USAGE.search(row.exit_detail) for row in killed}
        return {worker: f"{one[1]} of {one[2]} GB in use" if one else "" for worker, one in usage.items()}
    return {}


def killed_text(killed: Sequence[str], *, setting: str) -> str:
    """Say that workers were killed for memory, and which settings help.

    Args:
        killed: the texts of `killed_for_memory`.
        setting: name of the setting that says how much memory a worker asks for.
    """
    usage = f" ({killed[-1]})" if killed[-1] else ""
    remedy = f"Raise {setting}, so that fewer workers share a machine, or lower num_workers or the batch size"
    return f"{len(killed)} workers were killed because their machine ran low on memory{usage}. {remedy}"
