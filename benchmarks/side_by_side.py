"""Timing of candidates side by side: best seconds of alternating rounds, and peak memory above the inputs."""

import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process and return its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def print_table(found: tuple[str, dict[str, tuple[float, float]]]) -> None:
    title, rows = found
    print(f"\n{title}")
    [(_, (own_seconds, _)), *_] = rows.items()
    for name, (seconds, mebibytes) in rows.items():
        print(f"  {name:<58}{seconds:>9.3f} ({mebibytes:>6.0f}){seconds / own_seconds:>8.2f}x", flush=True)


def in_turns(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Run the candidates in turns. Returns the best seconds and the highest peak in MiB of each."""
    seconds, peaks = dict.fromkeys(candidates, np.inf), dict.fromkeys(candidates, 0.0)
    for _ in range(rounds):
        for name, candidate in candidates.items():
            gc.collect()
            before = reset_peak()
            start = time.perf_counter()
            result = candidate()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            peaks[name] = max(peaks[name], peak_mebibytes() - before)
            del result
    return {name: (seconds[name], peaks[name]) for name in candidates}


def reset_peak() -> float:
    """Reset the high-water mark of memory to the current use, if the kernel can. Returns the mark in MiB."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mebibytes()


def peak_mebibytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024
