"""The log of a training: metrics.jsonl, and the same metrics as TensorBoard events."""

import json
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pyarrow import fs
from tensorboardX import SummaryWriter

from raylabel.files.committing import commit_bytes
from raylabel.files.file_systems import open_uri
from raylabel.files.paths import join
from raylabel.files.reading import exists, read_bytes
from raylabel.run.models import TRAINING_LOG

EVENTS_FOLDER = "tensorboard"

COMMIT_SECONDS = 10.0
"""Seconds between two updates of the files. A thread writes them."""

_DIGITS = 6
_GROUPS = ("labelled", "pool", "ema")


class TrainingLog:
    """The metrics of one training.

    After a restart the log may be ahead of the checkpoint. Repeated steps then replace the older rows.

    Args:
        folder_uri: folder or URI of the model.
        finished_steps: steps before the restart; 0 starts an empty log.
    """

    def __init__(self, folder_uri: str, *, finished_steps: int) -> None:
        self._uri = folder_uri
        metrics_uri = join(folder_uri, TRAINING_LOG)
        before = read_bytes(metrics_uri).decode().splitlines() if finished_steps and exists(metrics_uri) else []
        self._lines = [line for line in before if json.loads(line)["step"] <= finished_steps]
        file_system, path = open_uri(join(folder_uri, EVENTS_FOLDER))
        # An event file grows, but object stores cannot append, so they get a local copy as a whole.
        self._is_local = isinstance(file_system, fs.LocalFileSystem)
        self._scratch = None if self._is_local else tempfile.TemporaryDirectory()
        folder = path if self._scratch is None else self._scratch.name
        purge_step = finished_steps + 1  # TensorBoard ignores steps from here on in earlier files
        self._events = SummaryWriter(folder, purge_step=purge_step, filename_suffix=f".{finished_steps:09d}")
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._last_commit = time.monotonic()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of the steps up to this one."""
        rounded = {name: float(f"{value:.{_DIGITS}g}") for name, value in metrics.items()}
        self._lines.append(json.dumps({"step": step, **rounded}))
        for name, value in rounded.items():
            self._events.add_scalar(_tag(name), value, step)
        if time.monotonic() - self._last_commit > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Start to update the files, once the previous update is written.

        Raises:
            StorageError: the previous update could not be written.
        """
        self._wait()
        self._last_commit = time.monotonic()
        self._writing = self._thread.submit(self._write, "".join(line + "\n" for line in self._lines).encode())

    def close(self) -> None:
        """Write the remaining metrics and close the log.

        Raises:
            StorageError: the files could not be written.
        """
        self._wait()
        self._events.close()  # because only close() waits for queued events
        self.commit()
        self._wait()
        self._thread.shutdown()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, metrics: bytes) -> None:
        commit_bytes(join(self._uri, TRAINING_LOG), metrics)
        self._events.flush()
        if self._scratch is not None:
            for file in Path(self._scratch.name).iterdir():
                commit_bytes(join(self._uri, EVENTS_FOLDER, file.name), file.read_bytes())


def _tag(name: str) -> str:
    """Name a metric for TensorBoard. TensorBoard groups metrics by the part before the slash."""
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in _GROUPS else f"training/{name}"
