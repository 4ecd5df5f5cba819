"""Number formats by device, and compiled networks that keep their names and results."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raylabel.config import OptimizerConfig
from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import Target
from raylabel.training.network import autocast_dtype, prepare_network


def test_precision_by_device() -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) is None
    assert autocast_dtype("bf16", cpu) == torch.bfloat16
    assert autocast_dtype("fp16", cpu) == torch.float16
    assert autocast_dtype("fp32", torch.device("cuda")) is None


@pytest.fixture
def one_process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Losses(nn.Module):
    """Stands in for the module that DDP wraps in a training."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: list[torch.Tensor], targets: list[Target]) -> torch.Tensor:
        return torch.stack(list(self.segmenter.losses(images, targets).values())).sum()


@pytest.mark.slow
@pytest.mark.usefixtures("one_process_group")
def test_a_compiled_network_keeps_names_and_losses_under_ddp_for_images_of_other_sizes() -> None:
    torch.manual_seed(0)
    plain = build_segmenter("tiny_maskrcnn", num_classes=2)
    compiled = build_segmenter("tiny_maskrcnn", num_classes=2)
    compiled.load_state_dict(plain.state_dict())
    # eager, because the C++ backend takes half a minute. The test is about what is compiled, not how well.
    prepare_network(compiled, OptimizerConfig(compile=True), backend="eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    wrapped = DistributedDataParallel(Losses(compiled))
    torch._dynamo.utils.counters.clear()
    for size in (64, 96):
        images = [torch.rand(3, size, size)]
        target = Target(
            boxes_xyxy=torch.tensor([[8.0, 8, 40, 40]]),
            masks_NHW=torch.ones(1, size, size, dtype=torch.bool),
            class_probs=torch.eye(1, 3),
            weights=torch.ones(1),
        )
        targets = [target]
        torch.manual_seed(1)
        expected = Losses(plain)(images, targets)
        torch.manual_seed(1)
        got = wrapped(images, targets)
        got.backward()
        torch.testing.assert_close(got, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2, "compiled again for each size"
