"""The worker of the label stage: predicts, corrects and commits one shard after another, inside an actor."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.calibration import Detections, ReliabilityBins, corrector_from_json
from raylabel.config import parse_config
from raylabel.dataset.images import ImageError
from raylabel.dataset.pool_image import PoolImage
from raylabel.dataset.shard_manifest import read_shard
from raylabel.instances import Instances, instances_context
from raylabel.labels import STATUS_OK, instances_to_structs, shard_uri
from raylabel.pipeline.attempts import KILLED_ITS_WORKER, ShardAttempt, begin_attempt
from raylabel.pipeline.expected_bins import expected_bins
from raylabel.pipeline.inference import Predictor
from raylabel.pipeline.lease import check_lease
from raylabel.pipeline.pool_histogram import HISTOGRAM_BINS, histogram_to_json
from raylabel.schema import LABELS
from raylabel.storage import RunFolder, commit_table, digest


class LabelShard:
    """Labels and commits shards, inside an actor."""

    def __init__(
        self,
        *,
        config: dict[str, Any],
        run: str,
        corrector: dict[str, Any],
        fingerprint: str,
        driver_id: str,
        counter: Any,
        calibration_actor: Any,
    ) -> None:
        self._config = parse_config(config)
        self._run = RunFolder(run)
        self._corrector = corrector_from_json(corrector)
        self._metadata = {"fingerprint": fingerprint, "corrector": digest(corrector)}
        self._driver_id = driver_id
        self._counter, self._calibration_actor = counter, calibration_actor
        self._predictor = Predictor(self._run.path("teacher"), self._config, as_displayed=True)

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        shard_id: int = shard["shard_id"]
        images = read_shard(shard["part"], shard["row_group"], shard_id).images
        start = time.monotonic()
        attempt = begin_attempt(self._run, shard_id, self._driver_id)
        rows: list[dict[str, Any]] = []
        detections = Detections.empty(self._predictor.num_classes)
        for image, found in self._found(images, attempt):
            rows.append(self._row(image, found))
            if isinstance(found, Instances):
                detections = Detections.concat([detections, self._detections(found)])
            self._counter.report.remote(f"shard-{shard_id}", len(rows))
        histogram = ReliabilityBins.from_detections(detections, HISTOGRAM_BINS).to_table()
        counts = {
            "num_images": len(rows),
            "num_instances": len(detections),
            "num_quarantined": sum(row["status"] != STATUS_OK for row in rows),
        }
        metadata = {
            **self._metadata,
            "shard_id": shard_id,
            **counts,
            "seconds": round(time.monotonic() - start, 3),
            "histogram": histogram_to_json(histogram),
        }
        schema = LABELS.with_metadata({name: str(value) for name, value in metadata.items()})
        table = pa.Table.from_pylist(rows, schema=schema)
        check_lease(self._run, self._driver_id)
        commit_table(shard_uri(self._run, shard_id), table)
        bins = expected_bins(table, num_classes=self._predictor.num_classes, num_bins=HISTOGRAM_BINS)
        self._calibration_actor.add.remote(shard_id, bins.to_table())
        attempt.forget()
        return pa.table({"shard_id": [shard_id], **{name: [value] for name, value in counts.items()}})

    def _found(
        self, images: Sequence[PoolImage], attempt: ShardAttempt
    ) -> Iterator[tuple[PoolImage, Instances | ImageError]]:
        """Every image with what was found in it; those that the listing refused are not read."""
        predictions = self._predictions([image for image in images if image.refusal is None], attempt)
        for image in images:
            yield next(predictions) if image.refusal is None else (image, ImageError(image.refusal))

    def _predictions(self, images: list[PoolImage], attempt: ShardAttempt) -> Any:
        if not attempt.is_careful:
            yield from zip(images, self._predictor([image.uri for image in images]), strict=True)
            return
        for position, image in enumerate(images):
            if position in attempt.killers:
                yield image, ImageError(KILLED_ITS_WORKER)
                continue
            attempt.mark_image(position)
            [found] = self._predictor([image.uri])
            yield image, found

    def _row(self, image: PoolImage, found: Instances | ImageError) -> dict[str, Any]:
        row: dict[str, Any] = {"image_id": image.image_id, "uri": image.uri}
        if isinstance(found, ImageError):
            return row | {"height": 0, "width": 0, "status": str(found), "instances": []}
        context = instances_context(found)
        calibrated_scores = self._corrector(self._detections(found, context)).astype(np.float32)
        height, width = found.image_size_hw
        return row | {
            "height": height,
            "width": width,
            "status": STATUS_OK,
            "instances": instances_to_structs(found, calibrated_scores, context, top_k=self._config.label.top_k),
        }

    def _detections(self, found: Instances, context: NDArray[np.float32] | None = None) -> Detections:
        # The truth of the pool is unknown: of the histogram only `num` and `sum_confidence` mean something.
        num_classes = self._predictor.num_classes
        scores = Detections.of_scores(found.class_indices, found.raw_scores, num_classes=num_classes, context=context)
        return replace(scores, outcomes=np.zeros(len(found), np.int8))
