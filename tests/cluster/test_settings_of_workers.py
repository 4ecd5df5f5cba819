"""Every setting of workers and reading reaches Ray, the worker or its model. No cluster is started."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.data
import ray.train
import torch
from PIL import Image

from fakes import FakeSegmenter
from false_cluster import node, set_nodes
from raylabel.cluster import ddp_worker, map_shards
from raylabel.cluster.batch_readers import TaskBatches
from raylabel.cluster.ddp import _scaling
from raylabel.cluster.ddp_worker import Training, WorkerPlan, train_worker
from raylabel.cluster.decoding import TaskDecoder, ThreadDecoder, build_decoder
from raylabel.cluster.predictor import Predictor
from raylabel.config import Config, LabelConfig, OptimizerConfig, TileConfig, TrainingConfig
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.images import ImageError
from raylabel.masks.rle import encode_masks, mask_boxes
from raylabel.models.saved import save_segmenter
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder
from raylabel.training.job import TrainContext
from toy_training import a_job
from without_ray import Silent


@pytest.mark.parametrize(
    ("settings", "num_workers", "use_gpu", "resources"),
    [
        ({}, 2, False, {"CPU": 0.5, "memory": 1e9}),
        ({"num_workers": 5}, 5, False, {"CPU": 0.5, "memory": 1e9}),
        ({"num_workers": 5, "min_workers": 3}, (3, 5), False, {"CPU": 0.5, "memory": 1e9}),
        ({"cpus_per_worker": 4.0, "memory_gb_per_worker": 0.0}, 2, False, {"CPU": 4.0}),
        ({"gpus_per_worker": 0.25, "memory_gb_per_worker": 2.5}, 2, True, {"CPU": 0.5, "GPU": 0.25, "memory": 2.5e9}),
    ],
)
def test_ray_train_is_asked_for_the_workers(
    settings: dict[str, Any], num_workers: Any, use_gpu: bool, resources: dict[str, float]
) -> None:
    asked = _scaling(TrainingConfig(**settings))
    assert (asked.num_workers, asked.use_gpu, asked.resources_per_worker) == (num_workers, use_gpu, resources)


class Worker:
    """What a training worker does with its settings."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.threads = RunFolder(str(folder)), list[int]()
        self.context: TrainContext | None = None
        self.kept: int | None = None
        rank = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
        monkeypatch.setattr(ray.train, "get_context", lambda: rank)
        monkeypatch.setattr(ddp_worker, "broadcast_from_rank_zero", lambda value: value)
        monkeypatch.setattr(ddp_worker, "get_device", lambda: torch.device("cpu"))
        monkeypatch.setattr(ddp_worker, "PreemptionNotice", lambda: lambda step: False)
        monkeypatch.setattr(ddp_worker, "train", self._train)
        monkeypatch.setattr(ddp_worker, "_restored", self._restored)
        monkeypatch.setattr(torch, "set_num_threads", self.threads.append)

    def _train(self, segmenter: Any, job: Any, context: TrainContext) -> Any:
        self.context = context
        return segmenter

    def _restored(self, checkpoints: Any, rank: int) -> None:
        self.kept = checkpoints._keep

    def work(self, settings: TrainingConfig) -> TrainContext:
        job = a_job(settings=settings)
        training = Training(
            build=lambda: (partial(FakeSegmenter, num_classes=2), job),
            folder="a",
            num_steps=6,
            identity=1,
            description={},
        )
        plan = WorkerPlan(trainings=[training], run=self.run, settings=settings, counter=Silent())
        train_worker({"plan": plan})
        assert self.context is not None
        return self.context


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(tmp_path, monkeypatch)


def test_a_batch_is_cut_for_the_planned_workers_and_their_micro_batches(worker: Worker) -> None:
    """The number of parts does not depend on how many workers there are now: 2."""
    settings = TrainingConfig(num_workers=3, min_workers=1, optimizer=OptimizerConfig(accumulate=4))
    context = worker.work(settings)
    assert (context.num_parts, context.rank, context.world_size) == (12, 1, 2)
    assert worker.work(TrainingConfig()).num_parts == 2


@pytest.mark.parametrize(
    ("settings", "by_tasks"),
    [
        ({}, False),
        ({"decoding": "tasks"}, True),
        ({"gpus_per_worker": 1.0}, True),
        ({"gpus_per_worker": 1.0, "decoding": "threads"}, False),
    ],
)
def test_images_are_read_by_tasks_or_by_the_worker(worker: Worker, settings: dict[str, Any], by_tasks: bool) -> None:
    opened = worker.work(TrainingConfig(**settings)).open_batches
    assert (opened is not None) == by_tasks
    if opened is not None:
        assert isinstance(opened, partial)
        assert opened.func is TaskBatches


@pytest.mark.parametrize("keep", [1, 5])
def test_the_worker_keeps_the_last_checkpoints_and_uses_its_cpus(worker: Worker, keep: int) -> None:
    worker.work(TrainingConfig(keep_checkpoints=keep, cpus_per_worker=0.5))
    worker.work(TrainingConfig(keep_checkpoints=keep, cpus_per_worker=3.0))
    assert worker.kept == keep
    assert worker.threads == [1, 3]


@pytest.mark.parametrize(
    ("label", "size", "num_cpus", "num_gpus", "memory", "threads"),
    [
        ({}, 4, 0.75, 0.0, 1e9, 1),
        ({"num_workers": 2}, 2, 1.0, 0.0, 1e9, 1),
        ({"num_workers": 1, "num_cpus": 3.0}, 1, 3.0, 0.0, 1e9, 3),
        ({"num_gpus": 0.5}, 2, 1.0, 0.5, 1e9, 1),
        ({"memory_gb": 3.0}, 2, 0.75, 0.0, 3e9, 1),
    ],
)
def test_ray_data_is_asked_for_the_actors(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    label: dict[str, Any],
    size: int,
    num_cpus: float,
    num_gpus: float,
    memory: float,
    threads: int,
) -> None:
    """The cluster has a machine of 4 CPUs, a GPU and 8 GB of memory."""
    asked: dict[str, Any] = {}

    def map_batches(actor: type, **how: Any) -> Any:
        asked.update(how)
        return SimpleNamespace(iter_batches=lambda **_: [])

    set_nodes(monkeypatch, node(CPU=4.0, GPU=1.0, memory=8e9))
    for name, stand_in in {"ShardAttempts": Silent(), "WorkerWatch": Silent()}.items():
        monkeypatch.setattr(map_shards, name, stand_in)
    monkeypatch.setattr(map_shards, "shard_blocks", lambda shards: SimpleNamespace(map_batches=map_batches))
    config = replace(config, label=LabelConfig(shard_size=5, **label))
    shards = [{"shard_id": number} for number in range(9)]
    assert list(map_shards.map_shards(dict, config=config, worker_args={"a": 1}, shards=shards)) == []
    assert (asked["compute"].max_size, asked["num_cpus"], asked["num_gpus"]) == (size, num_cpus, num_gpus)
    assert asked["memory"] == memory
    worker, arguments, num_threads, _ = asked["fn_constructor_args"]
    assert (worker, num_threads, arguments["a"]) == (dict, threads, 1)
    assert arguments["config"]["label"]["num_workers"] == size
    assert arguments["config"]["label"]["shard_size"] == 5


@pytest.mark.parametrize(
    ("label", "by_tasks"),
    [
        ({}, False),
        ({"decoding": "tasks"}, True),
        ({"num_gpus": 0.5}, True),
        ({"num_gpus": 0.5, "decoding": "threads"}, False),
    ],
)
def test_a_predictor_reads_by_tasks_or_threads_ahead_of_its_batches(
    label: dict[str, Any], by_tasks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylabel.cluster.decoding._store_bytes_a_worker", lambda num_workers: 1e9 / num_workers)
    decoder = build_decoder(LabelConfig(num_workers=2, batch_size=5, **label), max_pixels=77)
    assert isinstance(decoder, TaskDecoder if by_tasks else ThreadDecoder)
    assert (decoder.lookahead.max_images, decoder._max_pixels) == (15, 77)


@pytest.mark.parametrize(("changes", "score_threshold"), [({}, 0.3), ({"score_threshold": 0.01}, 0.01)])
def test_a_predictor_predicts_as_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], score_threshold: float
) -> None:
    """There are five images of 8 x 8 pixels, and one of more than 100 pixels."""
    asked: list[dict[str, Any]] = []
    sizes: list[int] = []

    def predict(segmenter: Any, images: list[torch.Tensor], **how: Any) -> list[Any]:
        assert not segmenter.training
        asked.append(how)
        sizes.append(len(images))
        return [round(image.mean().item() * 255) for image in images]

    monkeypatch.setattr("raylabel.models.predict.predict_images", predict)
    save_segmenter(FakeSegmenter(num_classes=2), str(tmp_path), {"model": "fakes:FakeSegmenter"})
    for number in range(6):
        side = 8 if number < 5 else 11
        Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    label = LabelConfig(score_threshold=0.3, max_per_image=9, mask_quality="agreement", batch_size=2)
    found = list(
        Predictor(str(tmp_path), label, max_pixels=100, own_classes=["fakes:FakeSegmenter"], **changes)(
            [ImageSource(str(tmp_path / f"{number}.png")) for number in range(6)]
        )
    )
    assert found[:5] == list(range(5))
    assert isinstance(found[5], ImageError)
    assert sizes == [2, 2, 1]
    assert asked == [{"score_threshold": score_threshold, "max_per_image": 9, "mask_quality": "agreement"}] * 3


def predict_grey_values(segmenter: Any, images: list[torch.Tensor], **how: Any) -> list[Instances]:
    """Find one object per grey value above 0, its class by the value."""
    found = []
    for image in images:
        pixels_HW = (image[0] * 255).round().long().numpy()
        values = np.unique(pixels_HW[pixels_HW > 0])
        masks = encode_masks(pixels_HW == values[:, None, None])
        found.append(
            Instances(
                image_size_hw=(pixels_HW.shape[0], pixels_HW.shape[1]),
                boxes_xyxy=mask_boxes(masks),
                masks=tuple(masks),
                class_indices=(values % 2).astype(np.int32),
                raw_scores=(values / 255).astype(np.float32),
                soft_vectors=np.zeros((len(values), 3), np.float32),
                mask_quality=np.ones(len(values), np.float32),
            )
        )
    return found


def test_a_predictor_finds_the_same_objects_in_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of several sizes share batches, and some have several tiles."""
    monkeypatch.setattr("raylabel.models.predict.predict_images", predict_grey_values)
    save_segmenter(FakeSegmenter(num_classes=2), str(tmp_path), {"model": "fakes:FakeSegmenter"})
    sources = []
    for number, (height, width) in enumerate([(64, 64), (20, 90), (16, 16), (50, 30)]):
        pixels = np.zeros((height, width, 3), np.uint8)
        for value in range(1, 5):
            top, left = value * height // 6, value * width // 6
            pixels[top : top + height // 7, left : left + width // 3] = 10 * value + number
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        sources.append(ImageSource(str(tmp_path / f"{number}.png")))

    def found(tile: TileConfig | None) -> list[tuple[Any, ...]]:
        label = LabelConfig(tile=tile, batch_size=3)
        predict = Predictor(str(tmp_path), label, max_pixels=10_000, own_classes=["fakes:FakeSegmenter"])
        return [
            (
                one.image_size_hw,
                sorted(zip(one.class_indices, one.raw_scores, (mask["counts"] for mask in one.masks), strict=True)),
            )
            for one in predict(sources)
            if isinstance(one, Instances)
        ]

    whole = found(None)
    assert found(TileConfig(size=16, overlap=0.5)) == whole
    assert [len(objects) for _, objects in whole] == [4] * 4
