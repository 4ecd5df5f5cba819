"""Stage 1: compute class prototypes in one Ray Data pass over the labelled images.

From scratch, a warm-up training comes first.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.cluster.map_shards import map_shards, row_shards
from raylabel.cluster.predictor import Predictor
from raylabel.cluster.progress_counter import live_progress
from raylabel.cluster.session import connect
from raylabel.config import Config, config_dict, parse_config
from raylabel.dataset.image_errors import ModelImageError, unusable
from raylabel.files.digests import file_digest
from raylabel.models.saved import save_segmenter
from raylabel.models.segmenter import Target
from raylabel.run.classes import commit_classes
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder, stage_folder
from raylabel.run.models import EMBEDDER, has_model
from raylabel.run.prototypes import commit_prototypes
from raylabel.run.stage import execute_stage
from raylabel.smoothing import PrototypeSums
from raylabel.stages.training_jobs import (
    class_targets,
    describe_model,
    new_segmenter,
    training_inputs,
    warmup_job,
    warmup_steps,
)
from raylabel.training.augment.views import no_augmentation
from raylabel.training.examples import LabelledExamples

FOLDER = stage_folder("prototypes")


def inputs(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    """Return everything that the outcome depends on."""
    embedder = config.smoothing.embedder
    return {
        "labelled": data.labelled_digest,
        "embedder": file_digest(f"{embedder}/model.safetensors") if embedder else training_inputs(config.teacher),
        "warmup_steps": 0 if embedder else config.smoothing.warmup_steps,
        "schedule_steps": 0 if embedder else config.teacher.steps,
        "layer": config.smoothing.layer,
        "seed": config.seed,
    }


def later(config: Config, run: RunFolder) -> dict[str, Any]:
    """Return nothing: every setting of this stage makes it run again."""
    return {}


def run_stage(config: Config, run: RunFolder) -> dict[str, Any]:
    """Embed every labelled instance, and average the embeddings per class.

    The embedder is `smoothing.embedder`, else the teacher's model with its weights. Without weights, the model is first
    trained for `smoothing.warmup_steps` without smoothing. If a given teacher has no embeddings, the classes get no
    prototypes, and no class is similar to another.

    Raises:
        InputError: the labelled set can't be read, or the embedder fails at one of its images.
    """
    data = RunData(config, run)
    commit_classes(run, data)
    return execute_stage(run, "prototypes", inputs(config, run, data), lambda: _embed_classes(config, run, data))


def _prepare_embedder(config: Config, run: RunFolder, data: RunData) -> str | None:
    """Train or save the embedder if it is missing, and return the folder of its model. None without an embedder."""
    if config.smoothing.embedder:
        return config.smoothing.embedder
    if num_steps := warmup_steps(config):
        training = Training(
            build=partial(warmup_job, config_dict(config), run),
            folder=EMBEDDER,
            num_steps=num_steps,
            identity=[
                data.labelled_digest,
                training_inputs(config.teacher),
                num_steps,
                config.teacher.steps,
                config.seed,
            ],
            description=describe_model(config.teacher, "embedder"),
        )
        train_on_ray([training], run=run, folder=FOLDER, settings=config.teacher, label="warm-up")
    elif not has_model(run, EMBEDDER):
        segmenter = new_segmenter(config.teacher, num_classes=data.labelled.num_classes, seed=config.seed)
        if not segmenter.embed_layers:
            return None
        save_segmenter(segmenter, run.path(EMBEDDER), describe_model(config.teacher, "embedder"))
    return run.path(EMBEDDER)


def _embed_classes(config: Config, run: RunFolder, data: RunData) -> dict[str, Any]:
    model_uri = _prepare_embedder(config, run, data)
    if model_uri is None:
        num_classes = data.labelled.num_classes
        nothing = PrototypeSums(counts=np.zeros(num_classes, np.int64), sums=np.zeros((num_classes, 1)))
        return {"num_images": 0, **_commit(run, nothing)}
    connect()
    num_images = len(data.labelled)
    shards = row_shards(range(num_images), config.label.shard_size)
    sums: PrototypeSums | None = None
    with live_progress("prototypes", num_images, unit="images", run=run, folder=FOLDER) as counter:
        for table in map_shards(
            EmbedShard,
            config=config,
            worker_args={"run": run, "model_uri": model_uri, "counter": counter},
            shards=shards,
            title=run.title("prototypes"),
        ):
            for counts, vectors in zip(table["counts"].to_pylist(), table["sums"].to_pylist(), strict=True):
                part = PrototypeSums(
                    counts=np.array(counts), sums=np.array(vectors, np.float64).reshape(len(counts), -1)
                )
                sums = part if sums is None else sums + part
    assert sums is not None, "a labelled set has images"
    return {"num_images": num_images, **_commit(run, sums)}


def _commit(run: RunFolder, sums: PrototypeSums) -> dict[str, Any]:
    commit_prototypes(run, sums)
    return {
        "num_instances": int(sums.counts.sum()),
        "num_classes_without_instance": int((sums.counts == 0).sum()),
        "embedding_size": int(sums.sums.shape[1]),
    }


class EmbedShard:
    """The actor's worker that embeds the annotated instances of shards."""

    def __init__(self, *, config: dict[str, Any], run: RunFolder, model_uri: str, counter: Any) -> None:
        parsed = parse_config(config)
        annotated = RunData(parsed, run).labelled
        one_hot = class_targets(parsed, annotated, None, kind="none")
        self._examples = LabelledExamples(
            annotated, one_hot, max_pixels=parsed.data.max_image_pixels, augment=no_augmentation
        )
        self._unused_rng = np.random.default_rng(0)
        self._images = annotated.images
        self._num_classes, self._counter = annotated.num_classes, counter
        self._predictor = Predictor(
            model_uri, parsed.label, max_pixels=parsed.data.max_image_pixels, own_classes=parsed.own_classes
        )
        self._layer = parsed.smoothing.layer
        self._batch_size = parsed.label.batch_size

    def __call__(self, shard: dict[str, Any]) -> pa.Table:
        rows: list[int] = shard["rows"]
        total: PrototypeSums | None = None
        for start in range(0, len(rows), self._batch_size):
            of_batch = rows[start : start + self._batch_size]
            examples = [self._examples.load(row, self._unused_rng) for row in of_batch]
            embed = partial(self._embed, examples)
            embedded = list[NDArray[np.floating]]()
            for row, found in zip(of_batch, self._predictor.call_model(embed, len(examples)), strict=True):
                if isinstance(found, ModelImageError):
                    raise unusable(self._images[row].uri, found, kind="annotated")
                embedded.append(found)
            class_indices = torch.cat([target.class_probs.argmax(dim=1) for _, target in examples])
            part = PrototypeSums.of_instances(
                np.concatenate(embedded), class_indices.numpy(), num_classes=self._num_classes
            )
            total = part if total is None else total + part
            self._counter.report.remote(f"shard-{shard['shard_id']}", start + len(examples))
        assert total is not None, "a shard has images"
        return pa.table({"counts": [total.counts.tolist()], "sums": [total.sums.ravel().tolist()]})

    def _embed(self, examples: Sequence[tuple[Tensor, Target]], part: range) -> list[NDArray[np.floating]]:
        """Embed the objects of a part of the examples, (N, D) per image."""
        device, of_part = self._predictor.device, [examples[place] for place in part]
        embeddings = self._predictor.segmenter.embed(
            [image.to(device) for image, _ in of_part], [target.to(device) for _, target in of_part], layer=self._layer
        )
        ends = np.cumsum([len(target) for _, target in of_part])
        return np.split(embeddings.cpu().numpy(), ends[:-1])
