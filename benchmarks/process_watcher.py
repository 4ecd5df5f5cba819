"""CPU-seconds and memory of a running process and its descendants (Linux)."""

import os
import threading
import time
from pathlib import Path

import numpy as np


class Watcher:
    """Samples CPU-seconds and memory of a process and its descendants from Linux's /proc."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[tuple[float, float]] = []
        self.peak_bytes = 0
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        number = 0
        while not self._stop.wait(0.25):
            tree = self._tree()
            self._cpu |= tree
            self.samples.append((time.time(), sum(self._cpu.values())))
            if number % 4 == 0:
                self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, tree)))
            number += 1

    def _tree(self) -> dict[int, float]:
        """Read the CPU-seconds of each process: process id -> seconds."""
        parents, seconds = {}, {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:  # the process has just ended
                continue
            pid = int(path.parent.name)
            parents[pid] = int(fields[1])
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        tree, added = set(), {self._pid} & parents.keys()
        while added:
            tree |= added
            added = {pid for pid, parent in parents.items() if parent in added}
        return {pid: seconds[pid] for pid in tree}

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_between(self, start: float, end: float) -> float:
        times, seconds = zip(*self.samples, strict=True)
        return float(np.interp(end, times, seconds) - np.interp(start, times, seconds))


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
