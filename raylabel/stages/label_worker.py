"""The worker of the label stage. It predicts, corrects and commits one shard after another, inside an actor."""

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raylabel.calibration import Detections, corrector_from_json
from raylabel.cluster.decoding import Refusal
from raylabel.cluster.memory import killed_for_memory, own_worker_id
from raylabel.cluster.prometheus import ShardMetrics
from raylabel.config import parse_config
from raylabel.dataset.image_errors import MODEL_FAILED, ModelImageError
from raylabel.dataset.image_headers import reads_as_stored
from raylabel.dataset.images import ImageError
from raylabel.dataset.pool.image import PoolImage
from raylabel.dataset.pool.manifest import read_shard
from raylabel.files.digests import digest
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder
from raylabel.run.labels.attempts import ShardAttempt, begin_attempt, killer_status
from raylabel.run.labels.failing import fails_everywhere, held_back_row
from raylabel.run.labels.histograms import HISTOGRAM_BINS, expected_bins, histogram_to_json
from raylabel.run.labels.in_validation import in_validation, read_validation
from raylabel.run.labels.rows import InstanceRows
from raylabel.run.labels.shards import IN_VALIDATION, STATUS_OK, commit_shard, is_quarantined
from raylabel.run.lease import check_lease
from raylabel.schema import LABELS, SHARD_PHASES
from raylabel.threads import READING_THREADS, map_on_threads

_REPORT_SECONDS = 0.5


class LabelShard:
    """The actor's worker that labels and commits shards. It returns one row of counts and seconds per shard.

    With `holds_back`, a shard in which the model fails at every image is not committed. Its row is `held_back_row`.
    Without a `calibration_actor` there is no live view, and Ray's metrics count nothing.
    """

    counts_attempts = True

    def __init__(
        self,
        *,
        config: dict[str, Any],
        run: str,
        model: str,
        corrector: dict[str, Any],
        fingerprint: str,
        driver_id: str,
        holds_back: bool,
        counter: Any,
        calibration_actor: Any = None,
    ) -> None:
        from raylabel.cluster.predictor import Predictor  # here, because the driver needs no torch

        self._config = parse_config(config)
        self._run = RunFolder(run)
        self._corrector = corrector_from_json(corrector)
        self._metadata = {"fingerprint": fingerprint, "corrector": digest(corrector)}
        self._driver_id, self._holds_back = driver_id, holds_back
        self._counter, self._calibration_actor = counter, calibration_actor
        self._predictor = Predictor(
            model,
            self._config.label,
            max_pixels=self._config.data.max_image_pixels,
            own_classes=self._config.own_classes,
        )
        self._validation = read_validation(self._run)
        self._metrics = ShardMetrics(self._run) if calibration_actor else None
        self._reported = 0.0
        self._last_failure: ModelImageError | None = None

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        shard_id: int = shard["shard_id"]
        images = read_shard(shard["part"], shard["row_group"], shard_id).images
        start = time.monotonic()
        seconds = self._predictor.seconds
        seconds.clear()
        attempt = begin_attempt(self._run, shard_id, self._driver_id, own_worker_id())
        table = self._label(shard_id, images, attempt)
        if self._holds_back and self._last_failure and fails_everywhere(table["status"].to_pylist()):
            attempt.forget()
            return self._held_back(shard_id, table)
        with seconds.phase("encode"):
            bins = expected_bins(table, num_classes=self._predictor.num_classes, num_bins=HISTOGRAM_BINS).to_table()
        report = {
            "shard_id": shard_id,
            "num_images": table.num_rows,
            "num_instances": int(pc.sum(pc.list_value_length(table["instances"])).as_py()),
            "num_quarantined": sum(map(is_quarantined, table["status"].to_pylist())),
            "num_in_validation": int(pc.sum(pc.starts_with(table["status"], IN_VALIDATION)).as_py()),
            "seconds": round(time.monotonic() - start, 3),
            **{f"{name}_seconds": round(seconds[name], 3) for name in SHARD_PHASES},
            "host": socket.gethostname(),
            "finished_at": round(time.time(), 3),
        }
        # The write time is known only afterwards: the file has 0 write seconds, and `seconds` without them.
        metadata = {**self._metadata, **report, "histogram": histogram_to_json(bins)}
        with seconds.phase("write"):
            check_lease(self._run, self._driver_id)
            num_bytes = commit_shard(self._run, shard_id, table, metadata)
        if self._calibration_actor:
            self._calibration_actor.add.remote(shard_id, bins)
        attempt.forget()
        report |= {
            "seconds": round(time.monotonic() - start, 3),
            "write_seconds": round(seconds["write"], 3),
            "finished_at": round(time.time(), 3),
            "num_bytes": num_bytes,
        }
        if self._metrics:
            self._metrics.count(report)
        return pa.table({name: [value] for name, value in report.items()})

    def _held_back(self, shard_id: int, table: pa.Table) -> pa.Table:
        assert self._last_failure, "the model failed"
        failed = table.filter(pc.starts_with(table["status"], MODEL_FAILED))
        place = f"{failed['uri'][0].as_py()} ({failed['status'][0].as_py()})"
        return held_back_row(shard_id, failed.num_rows, place, self._last_failure.traceback)

    def _label(self, shard_id: int, images: Sequence[PoolImage], attempt: ShardAttempt) -> pa.Table:
        """Return rows of schema.LABELS in the order of the images."""
        rows = InstanceRows(top_k=self._config.label.top_k)
        positions, sizes_hw, statuses = list[int](), list[tuple[int, int]](), list[str]()
        contents: list[int | None] = [None] * len(images)
        for position, found in self._found(images, attempt, contents):
            with self._predictor.seconds.phase("encode"):
                positions.append(position)
                if isinstance(found, ImageError):
                    rows.append(None)
                    sizes_hw.append((0, 0))
                    statuses.append(str(found))
                    self._last_failure = found if isinstance(found, ModelImageError) else self._last_failure
                else:
                    rows.append(found)
                    sizes_hw.append(found.image_size_hw)
                    statuses.append(STATUS_OK)
                self._report(f"shard-{shard_id}", rows, statuses, is_last=len(statuses) == len(images))
        with self._predictor.seconds.phase("encode"):
            # Sort by position, because careful attempts take the doubtful images first.
            by_position = np.argsort(positions)
            rows = rows.take(by_position)
            heights, widths = np.array(sizes_hw, dtype=np.int32)[by_position].T
            statuses = [statuses[place] for place in by_position]
            columns = {
                "image_id": [image.image_id for image in images],
                "uri": [image.uri for image in images],
                "height": heights,
                "width": widths,
                "as_stored": self._are_stored(images, statuses),
                "status": statuses,
                "instances": rows.to_arrow(self._corrector(self._detections(rows))),
                "content": pa.array(contents, pa.uint64()),
            }
            return pa.table(columns, schema=LABELS)

    def _report(self, key: str, rows: InstanceRows, statuses: list[str], *, is_last: bool) -> None:
        """Report live counts, rarely enough for thousands of workers."""
        now = time.monotonic()
        if is_last or now - self._reported > _REPORT_SECONDS:
            self._reported = now
            num_quarantined = sum(map(is_quarantined, statuses))
            self._counter.report.remote(key, len(statuses), int(rows.lengths.sum()), num_quarantined)

    def _found(
        self, images: Sequence[PoolImage], attempt: ShardAttempt, contents: list[int | None]
    ) -> Iterator[tuple[int, Instances | ImageError]]:
        """Yield the position of each image and its instances or error. Images that the listing refused are not read.

        `contents` gets the content of each image that is read, at its position.
        """
        to_read = []
        for position, image in enumerate(images):
            if image.refusal is None:
                to_read.append(position)
            else:
                yield position, ImageError(image.refusal)
        if not attempt.is_careful:
            sources = [images[position].source for position in to_read]
            predicted = self._predictor(sources, refuse=self._refuse_validation(contents, to_read))
            yield from zip(to_read, predicted, strict=True)
            return
        killed = killed_for_memory() if attempt.killers else {}
        for position in attempt.killers:
            workers = attempt.deaths[position]
            for_memory = [killed[one] for one in workers if one in killed]
            yield position, ImageError(killer_status(len(workers), for_memory))
        for step, position in enumerate(attempt.order(to_read)):
            attempt.mark_image(step, position)
            [found] = self._predictor([images[position].source], refuse=self._refuse_validation(contents, [position]))
            yield position, found
        attempt.mark_end()

    def _refuse_validation(self, contents: list[int | None], positions: Sequence[int]) -> Refusal:
        """Return a function that keeps the contents of the images at these positions, and refuses validation images."""

        def refuse(place: int, content: int) -> ImageError | None:
            contents[positions[place]] = content
            status = in_validation(self._validation, content)
            return None if status is None else ImageError(status)

        return refuse

    def _are_stored(self, images: Sequence[PoolImage], statuses: Sequence[str]) -> list[bool | None]:
        """Tell of which annotated images the model saw the stored pixels. Headers of other images are not read."""
        annotated = {
            place: image.source
            for place, image in enumerate(images)
            if image.height is not None and statuses[place] == STATUS_OK
        }
        look = partial(reads_as_stored, max_pixels=self._config.data.max_image_pixels)
        found = map_on_threads(look, list(annotated.values()), num_threads=READING_THREADS)
        is_stored = dict(zip(annotated, found, strict=True))
        return [is_stored.get(place) for place in range(len(images))]

    def _detections(self, rows: InstanceRows) -> Detections:
        """Return the detections of the rows. Their outcomes are unknown."""
        scores = Detections.of_scores(
            rows.column("class_index"),
            rows.column("raw_score"),
            num_classes=self._predictor.num_classes,
            context=rows.column("context"),
        )
        return replace(scores, image_indices=np.repeat(np.arange(len(rows.lengths)), rows.lengths))
