"""A training of the tiny model on images that are generated when read, for tests of the loop."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from raylabel.config import TrainingConfig
from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import Segmenter, Target
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.loop import train

NUM_CLASSES = 2


class ToyExamples:
    """Images of one square whose colour shows its class. The first pixel holds the index of the image.

    Each image takes `pause` seconds to read.
    """

    num_classes = NUM_CLASSES

    def __init__(
        self, num: int = 7, side: int = 48, with_objects: bool = True, pause: float = 0.0, name: str = "toy"
    ) -> None:
        self.num, self.side, self.with_objects = num, side, with_objects
        self.pause, self.name = pause, name
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.num

    def image_classes(self) -> list[NDArray[np.int32]]:
        return [np.array([index % 2] if self.with_objects else [], np.int32) for index in range(self.num)]

    def image_id(self, index: int) -> str:
        return f"{self.name}-{index}"

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        self.loaded.append(index)
        time.sleep(self.pause)
        image = torch.from_numpy(rng.random((3, self.side, self.side), dtype=np.float32)) * 0.2
        image[0, 0, 0] = index / 100
        if not self.with_objects:
            return image, Target.empty((self.side, self.side), NUM_CLASSES)
        x = int(rng.integers(0, self.side - 24))
        image[index % 2, x : x + 24, x : x + 24] += 0.7
        mask = torch.zeros(1, self.side, self.side, dtype=torch.bool)
        mask[0, x : x + 24, x : x + 24] = True
        probs = torch.eye(NUM_CLASSES, NUM_CLASSES + 1)[[index % 2]]
        box = torch.tensor([[x, x, x + 24, x + 24]], dtype=torch.float32)
        return image, Target(boxes_xyxy=box, masks_NHW=mask, class_probs=probs, weights=torch.ones(1))


def new_segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter("tiny_maskrcnn", num_classes=NUM_CLASSES)


def a_job(**changes: object) -> TrainJob:
    job = TrainJob(
        settings=TrainingConfig(checkpoint_every=3),
        steps=6,
        labelled=ToyExamples(),
        labelled_per_batch=3,
        pool=ToyExamples(num=5),
        unlabelled_per_batch=2,
        seed=5,
    )
    return replace(job, **changes)


def assert_same_weights(first: Segmenter, second: Segmenter) -> None:
    """Compare the weights bit for bit."""
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), f"{name} differs"


def train_rank(rank: int, world_size: int, num_parts: int, folder: Path) -> None:
    """Train with DDP as one rank, in its own process. Rank 0 writes its weights into the folder."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), world_size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    context = TrainContext(rank=rank, world_size=world_size, num_parts=num_parts, wrap=DistributedDataParallel)
    trained = train(new_segmenter(), a_job(), context)
    if rank == 0:
        save_file(trained.state_dict(), folder / "weights.safetensors")
    torch.distributed.destroy_process_group()
