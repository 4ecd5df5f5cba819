"""Scores of models on a sample of the pool, whose truth nobody needs to know."""

import hashlib
import heapq
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from raylabel.calibration import Detections
from raylabel.cluster.decoding import ImageSource
from raylabel.cluster.map_shards import map_shards, row_shards
from raylabel.cluster.predictor import Predictor
from raylabel.cluster.progress_counter import live_progress
from raylabel.config import Config, parse_config
from raylabel.dataset.images import ImageError
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder, stage_folder

NUM_IMAGES = 1000
"""Size of the sample. Every model that is compared predicts it once."""


def sample_pool(data: RunData, *, seed: int) -> list[str]:
    """Return the URIs of `NUM_IMAGES` images of the pool, or of all if it has fewer.

    The seed and the image's id choose an image, so the order of the listing does not count. Memory grows with the
    sample, not with the pool.
    """

    def number(image_id: str) -> bytes:
        return hashlib.blake2b(f"{seed} {image_id}".encode("utf-8", "surrogateescape"), digest_size=8).digest()

    readable = ((number(image.image_id), image.uri) for image in data.list_pool() if image.refusal is None)
    return [uri for _, uri in heapq.nsmallest(NUM_IMAGES, readable)]


def score_images(config: Config, run: RunFolder, model_uri: str, uris: Sequence[str]) -> Detections:
    """Return the classes and scores that a saved model gives to images. Images that can't be read have none."""
    parts: list[Detections] = []
    folder = stage_folder("calibrate")
    with live_progress("score the pool's sample", len(uris), unit="images", run=run, folder=folder) as counter:
        for table in map_shards(
            ScoreShard,
            config=config,
            worker_args={"model_uri": model_uri, "counter": counter},
            shards=[shard | {"uris": [uris[row] for row in shard["rows"]]} for shard in _shards(len(uris), config)],
        ):
            [one] = table.to_pylist()
            parts.append(Detections.of_scores(one["class_index"], one["raw_score"], num_classes=one["num_classes"]))
    return Detections.concat(parts)


def _shards(num_images: int, config: Config) -> list[dict[str, Any]]:
    return row_shards(range(num_images), config.label.shard_size)


class ScoreShard:
    """The actor's worker that predicts images and keeps only classes and scores."""

    def __init__(self, *, config: dict[str, Any], model_uri: str, counter: Any) -> None:
        parsed = parse_config(config)
        self._predictor = Predictor(model_uri, parsed.label, max_pixels=parsed.data.max_image_pixels)
        self._counter = counter

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        class_indices: list[int] = []
        raw_scores: list[float] = []
        for done, found in enumerate(self._predictor([ImageSource(uri) for uri in shard["uris"]])):
            if not isinstance(found, ImageError):
                class_indices += found.class_indices.tolist()
                raw_scores += found.raw_scores.tolist()
            self._counter.report.remote(f"shard-{shard['shard_id']}", done + 1)
        schema = pa.schema(
            [
                ("num_classes", pa.int32()),
                ("class_index", pa.list_(pa.int32())),
                ("raw_score", pa.list_(pa.float64())),
            ]
        )
        columns = {
            "num_classes": [self._predictor.num_classes],
            "class_index": [class_indices],
            "raw_score": [raw_scores],
        }
        return pa.table(columns, schema=schema)
