"""`Run`: read a run from Python, without its models."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from raylabel.calibration import Corrector
from raylabel.config import Config
from raylabel.errors import InputError
from raylabel.run.calibration import load_corrector
from raylabel.run.classes import RunClasses, load_classes
from raylabel.run.folder import STAGES, RunFolder, load_run_config, run_folder
from raylabel.run.labels.kept import kept_batches
from raylabel.run.labels.shards import committed_shards, label_batches
from raylabel.run.metrics import load_metrics
from raylabel.run.stage import finished


class Run:
    """A run to read: its labels as streams of Arrow batches, its classes, corrector, metrics and artifacts.

    Each call reads the run's files. A run at work can be read as well: its committed part is visible.

    Args:
        uri: the run folder, a local path or a URI.

    Attributes:
        uri: the same, absolute.
        config: the config that the run stores.

    Raises:
        InputError: the folder is not a run.

    Examples:
        >>> import raylabel as rl
        >>> # run: the folder of a finished run
        >>> a_run = rl.Run(run)
        >>> a_run.classes.num_classes
        6
        >>> sum(batch.num_rows for batch in a_run.labels())  # one row per pool image
        32
        >>> batch = next(a_run.pseudo_labels())
        >>> batch.schema.names
        ['image_id', 'uri', 'height', 'width', 'as_stored', 'status', 'instances', 'content']
        >>> a_run.artifact("label")["num_images"]
        32
    """

    def __init__(self, uri: str | Path | RunFolder) -> None:
        self._folder = run_folder(uri)
        self.config: Config = load_run_config(self._folder)

    def __repr__(self) -> str:
        return f"Run({self.uri!r})"

    @property
    def uri(self) -> str:
        """The run folder: an absolute path, or a URI."""
        return self._folder.uri

    @cached_property
    def classes(self) -> RunClasses:
        """The classes in the order of their index: names, category ids, frequency groups, numbers of training images.

        Raises:
            InputError: the stage `prototypes` has not begun.
        """
        return load_classes(self._folder)

    @property
    def corrector(self) -> Corrector:
        """The corrector of the teacher's scores.

        Raises:
            InputError: the run is not calibrated.
        """
        return load_corrector(self._folder)

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures of the stage `evaluate`: AP of every model, and the quality of the pool's labels.

        Raises:
            InputError: the run is not evaluated.
        """
        metrics = load_metrics(self._folder)
        if metrics is None:
            raise InputError(f"{self.uri}: has no metrics yet. Run evaluate first.")
        return metrics

    def artifact(self, stage: str) -> dict[str, Any]:
        """Return what a finished stage recorded: fingerprint, inputs, counts, seconds, versions.

        Raises:
            InputError: there is no such stage, or it is not finished.
        """
        names = [spec.name for spec in STAGES]
        if stage not in names:
            raise InputError(f"stage must be one of {', '.join(names)}, got {stage!r}")
        return finished(self._folder, stage)

    def labels(self) -> Iterator[pa.RecordBatch]:
        """Stream every committed prediction, before selection.

        Yields:
            Batches of schema.LABELS: one row per pool image, with all of its predictions in `instances`. Images
            that are quarantined or left out have a `status` other than "ok" and no instances.
        """
        for uri in self.shards:
            yield from label_batches(uri)

    @property
    def shards(self) -> list[str]:
        """The committed label shards: paths or URIs of Parquet files, in order. Work can be split by them."""
        return list(committed_shards(self._folder).values())

    def pseudo_labels(self, shards: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the pseudo-labels: the predictions that the selection of the run's config keeps.

        Args:
            shards: some of `shards`. Without it, all of them.

        Yields:
            Batches of schema.LABELS: one row per pool image with pseudo-labels. `instances` has no other predictions.
        """
        groups = self.classes.frequency_groups
        if isinstance(shards, str):
            shards = [shards]
        for uri in self.shards if shards is None else shards:
            yield from kept_batches(uri, self.config.selection, groups)
