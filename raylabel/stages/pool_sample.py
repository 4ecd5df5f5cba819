"""Scores of models on a sample of the pool."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import Detections
from raylabel.cluster.map_shards import map_shards
from raylabel.cluster.predictor import Predictor
from raylabel.cluster.progress_counter import live_progress
from raylabel.config import Config, parse_config
from raylabel.dataset.image_errors import ImageError, ModelImageError
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.pool.image import PoolImage
from raylabel.errors import ModelError
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, stage_folder

NUM_IMAGES = 1000
"""Size of the sample. Every model that is compared predicts it once."""


def sample_pool(pool: Iterable[PoolImage], *, seed: int) -> list[ImageSource]:
    """Return `NUM_IMAGES` images of the pool, or of all if it has fewer.

    The seed and the image's id choose an image, so the order of the listing does not count. Memory grows with the
    sample, not with the pool.
    """

    def number(image_id: str) -> bytes:
        return hashlib.blake2b(f"{seed} {image_id}".encode("utf-8", "surrogateescape"), digest_size=8).digest()

    readable = ((number(image.image_id), image.source) for image in pool if image.refusal is None)
    return [source for _, source in heapq.nsmallest(NUM_IMAGES, readable)]


def score_images(
    config: Config, run: RunFolder, asked: Sequence[tuple[str, Sequence[ImageSource]]]
) -> list[Detections]:
    """Return the classes and scores that saved models give to images.

    Images that can't be read, or at which the model fails, have none.

    Args:
        config: the run's config.
        run: the run whose `calibrate` stage asks.
        asked: folder of each model, and its images. All models share one set of workers.

    Returns:
        The detections of each of `asked`, in their order.

    Raises:
        ModelError: a model fails at every image of a shard.
    """
    shards = [
        {"place": place, "model": model_uri, "images": list(images[start : start + config.label.shard_size])}
        for place, (model_uri, images) in enumerate(asked)
        for start in range(0, len(images), config.label.shard_size)
    ]
    shards = [shard | {"shard_id": number} for number, shard in enumerate(shards)]
    num_classes = load_classes(run).num_classes
    parts = [[Detections.of_scores([], [], num_classes=num_classes)] for _ in asked]
    num_images = sum(len(images) for _, images in asked)
    with live_progress(
        "score the pool's sample", num_images, unit="images", run=run, folder=stage_folder("calibrate")
    ) as counter:
        for table in map_shards(
            ScoreShard,
            config=config,
            worker_args={"counter": counter},
            shards=shards,
            title=run.title("score the pool's sample"),
        ):
            if table.num_rows:
                found = Detections.of_scores(table["class_index"], table["raw_score"], num_classes=num_classes)
                parts[table["place"][0].as_py()].append(found)
    return [Detections.concat(of_model) for of_model in parts]


class ScoreShard:
    """The actor's worker that predicts images and keeps only classes and scores."""

    def __init__(self, *, config: dict[str, Any], counter: Any) -> None:
        self._config = parse_config(config)
        self._counter = counter
        self._model_uri = ""

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        if shard["model"] != self._model_uri:
            self._model_uri = shard["model"]
            self._predictor = Predictor(
                self._model_uri,
                self._config.label,
                max_pixels=self._config.data.max_image_pixels,
                own_classes=self._config.own_classes,
            )
        failure: ModelImageError | None = None
        num_predicted = 0
        class_indices, raw_scores = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
        for done, found in enumerate(self._predictor([ImageSource(*image) for image in shard["images"]])):
            if isinstance(found, ModelImageError):
                failure = found
            elif not isinstance(found, ImageError):
                num_predicted += 1
                class_indices.append(found.class_indices)
                raw_scores.append(found.raw_scores)
            self._counter.report.remote(f"shard-{shard['shard_id']}", done + 1)
        if failure and not num_predicted:
            raise ModelError(f"{self._model_uri}: fails at every image of a shard: {failure}.", failure.traceback)
        scores = np.concatenate(raw_scores)
        columns = {
            "place": np.full(len(scores), shard["place"]),
            "class_index": np.concatenate(class_indices),
            "raw_score": scores,
        }
        return pa.table(columns)
