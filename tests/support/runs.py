"""The command line in separate processes, for tests that disturb it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from raylabel.config import Config, dump_config, load_config
from raylabel.run.folder import RunFolder
from stored_labels import label_rows

MINUTES = 60


def start(*argv: str, env: Mapping[str, str] | None = None, output: IO[str] | None = None) -> subprocess.Popen[str]:
    """Start a command in a new session, so that its whole process group can be ended.

    Args:
        argv: arguments of `raylabel`.
        env: the environment.
        output: file for what the command prints. By default a pipe, which `finish` reads.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "raylabel.cli", *argv],
        stdin=subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=env,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0, within: float = 5 * MINUTES) -> str:
    """Wait until the command ends, check its exit code, and return its output."""
    try:
        output, _ = process.communicate(timeout=within)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, output
    return output


def wait_for(condition: Callable[[], object], *, process: subprocess.Popen[str], within: float = 5 * MINUTES) -> None:
    """Wait until something holds while a command is at work."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "timed out"
        assert process.poll() is None, process.communicate()[0] if process.stdout else "the command has ended"
        time.sleep(0.05)


def kill(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to the driver alone. Ray's processes end by themselves when the driver is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=MINUTES)


def write_config(folder: Path, generated: Path, model: str, **label: Any) -> tuple[Config, str]:
    """Write a config for a generated set and a run without training; return the config and its path."""
    path = folder / "config.yaml"
    names = {"labelled": "labelled.json", "images": "images", "calibration": "calibration.json", "pool": "pool"}
    data = ", ".join(f"{key}: {generated / name}" for key, name in {**names, "validation": "val.json"}.items())
    path.write_text(
        f"data: {{{data}}}\n"
        f'teacher: {{model: "{model}", steps: 60, batch_size: 4, num_workers: 1, checkpoint_every: 5}}\n'
        f'student: {{model: "{model}"}}\n'
        "smoothing: {warmup_steps: 0}\n"
    )
    config = load_config(path)
    config = replace(config, label=replace(config.label, **label))
    path.write_text(dump_config(config))
    return config, str(path)


def quarantined_or_labelled(run: RunFolder) -> list[dict[str, Any]]:
    """Return all rows of a run's labels by image id, without the image's URI."""
    rows = [{**row, "uri": ""} for row in label_rows(run)]
    ids = [row["image_id"] for row in rows]
    assert len(set(ids)) == len(ids), "an image has two rows"
    return sorted(rows, key=lambda row: row["image_id"])


def actors(name: str, pid: int) -> list[Any]:
    """Return the processes below a driver or a raylet whose title names an actor that has begun."""
    import psutil  # comes with Ray

    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue  # because the process has ended meanwhile
        if name in title and "__init__" not in title:
            found.append(process)
    return found
