"""A training job on a made-up pool. Any worker can build it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pool_world import pool_run
from raylabel.config import SelectionConfig, TrainingConfig
from raylabel.models.segmenter import Segmenter, Target
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards
from raylabel.training.job import SegmenterBuilder, TrainJob
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.index import PoolIndex, index_pool
from raylabel.training.pool.stream import PoolStream
from raylabel.training.pool.targets import PoolTargets

NUM_CLASSES = 3


class Noise:
    """Five images of noise without objects."""

    num_classes = NUM_CLASSES

    def __len__(self) -> int:
        return 5

    def image_classes(self) -> list[np.ndarray]:
        return [np.zeros(0, np.int32)] * 5

    def image_id(self, index: int) -> str:
        return str(index)

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        image = torch.from_numpy(rng.random((3, 8, 8), dtype=np.float32))
        return image + index, Target.empty((8, 8), NUM_CLASSES)


def write_pool(folder: Path) -> None:
    """Write seven pool images in three shards."""
    pool_run(folder, [[[0], [0, 1], []], [[0], [0]], [[0, 2], [0]]], num_classes=NUM_CLASSES)


def no_segmenter() -> Segmenter:
    """Fail, because readers of batches need no model."""
    raise AssertionError("a reader built a model")


def toy_pool_job(folder: str) -> tuple[SegmenterBuilder, TrainJob]:
    """Build a job with 3 labelled and 4 strongly augmented pool images per step."""
    run = RunFolder(str(Path(folder) / "run"))
    choice = PoolChoice(selection=SelectionConfig(), frequency_groups=np.array(["f"] * NUM_CLASSES))
    table = index_pool(committed_shards(run), choice, threshold=0.6)
    index = PoolIndex.from_table(table)
    job = TrainJob(
        settings=TrainingConfig(),
        steps=9,
        labelled=Noise(),
        labelled_per_batch=3,
        pool=PoolStream(run, index, choice, PoolTargets(), seed=1, max_pixels=10_000),
        unlabelled_per_batch=4,
        seed=2,
    )
    return no_segmenter, job
