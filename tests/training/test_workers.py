"""A step learns the same with any number of workers, because its batch is cut into the same parts."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fakes import FakeSegmenter
from raylabel.training.job import TrainContext
from raylabel.training.loop import train
from toy_training import NUM_CLASSES, a_job, new_segmenter, train_rank

TOLERANCE = 1e-4
"""Largest difference of weights after 6 steps, from adding floats in another order. It measured 1.3e-5.

The 6 steps move the weights by up to 3e-3. Rounding matters, because Adam takes large steps even for gradients near 0.
"""


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max((value.double() - second[name].double()).abs().max().item() for name, value in first.items())


def on_workers(world_size: int, num_parts: int, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=train_rank, args=(rank, world_size, num_parts, folder)) for rank in range(world_size)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(timeout=120)
        assert one.exitcode == 0
    return load_file(folder / "weights.safetensors")


def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    """Two workers, and one, share the parts of three planned workers. The parts do not divide evenly among two."""
    together = on_workers(2, 3, tmp_path / "two")
    alone = train(new_segmenter(), a_job(), TrainContext(num_parts=3)).state_dict()
    assert largest_difference(together, alone) <= TOLERANCE
    assert largest_difference(together, new_segmenter().state_dict()) > 10 * TOLERANCE


@pytest.mark.parametrize("num_parts", [2, 4])
def test_accumulation_keeps_the_gradient(num_parts: int) -> None:
    """A model without random choices. With 4 parts of 3 labelled and 2 pool images, one part is empty."""

    def trained(num_parts: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return train(FakeSegmenter(num_classes=NUM_CLASSES), a_job(), TrainContext(num_parts=num_parts)).state_dict()

    torch.manual_seed(0)
    start = FakeSegmenter(num_classes=NUM_CLASSES).state_dict()
    assert largest_difference(trained(1), start) > 1e-3
    assert largest_difference(trained(1), trained(num_parts)) <= 1e-6
