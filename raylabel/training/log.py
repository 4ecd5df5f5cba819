"""What a training says of itself while it lasts: metrics.jsonl, and the same as TensorBoard events."""

import json
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pyarrow import fs
from tensorboardX import SummaryWriter

from raylabel.files.file_systems import open_uri
from raylabel.files.storage import commit_bytes, exists, join, read_bytes

METRICS_FILE = "metrics.jsonl"
EVENTS_FOLDER = "tensorboard"

COMMIT_SECONDS = 10.0
"""Between two times that the files are brought up to date; a thread does it."""

_DIGITS = 6
_GROUPS = ("labelled", "pool", "ema")


class TrainingLog:
    """Metrics of one training, in a folder or URI.

    After a restart the log may be ahead of the checkpoint: what is made again replaces what was there.

    Args:
        folder_uri: of the model.
        finished_steps: where the training goes on; 0 begins anew.
    """

    def __init__(self, folder_uri: str, *, finished_steps: int) -> None:
        self._uri = folder_uri
        metrics_uri = join(folder_uri, METRICS_FILE)
        before = read_bytes(metrics_uri).decode().splitlines() if finished_steps and exists(metrics_uri) else []
        self._lines = [line for line in before if json.loads(line)["step"] <= finished_steps]
        file_system, path = open_uri(join(folder_uri, EVENTS_FOLDER))
        # An event file grows line by line, which object stores don't know: there it is sent whole, from a local copy.
        self._is_local = isinstance(file_system, fs.LocalFileSystem)
        self._scratch = None if self._is_local else tempfile.TemporaryDirectory()
        folder = path if self._scratch is None else self._scratch.name
        purge_step = finished_steps + 1  # TensorBoard leaves out what earlier files say of it and later ones
        self._events = SummaryWriter(folder, purge_step=purge_step, filename_suffix=f".{finished_steps:09d}")
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._last_commit = time.monotonic()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of some steps that end with this one."""
        rounded = {name: float(f"{value:.{_DIGITS}g}") for name, value in metrics.items()}
        self._lines.append(json.dumps({"step": step, **rounded}))
        for name, value in rounded.items():
            self._events.add_scalar(_tag(name), value, step)
        if time.monotonic() - self._last_commit > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Begin to bring the files up to date, once that is done which was begun before.

        Raises:
            StorageError: what was begun before could not be written.
        """
        self._wait()
        self._last_commit = time.monotonic()
        self._writing = self._thread.submit(self._write, "".join(line + "\n" for line in self._lines).encode())

    def close(self) -> None:
        """Write what is left.

        Raises:
            StorageError: it could not be written.
        """
        self._wait()
        self._events.close()  # alone waits for events that are still on the way to the file
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
        commit_bytes(join(self._uri, METRICS_FILE), metrics)
        self._events.flush()
        if self._scratch is not None:
            for file in Path(self._scratch.name).iterdir():
                commit_bytes(join(self._uri, EVENTS_FOLDER, file.name), file.read_bytes())


def _tag(name: str) -> str:
    """TensorBoard shows what is before the slash as a group."""
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in _GROUPS else f"training/{name}"
