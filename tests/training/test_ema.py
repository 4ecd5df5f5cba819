"""The moving average, computed step by step by hand."""

import pytest
import torch
from torch import nn

from raylabel.training.ema import MovingAverage, ramped_decay


def test_decay_is_ramped_up_to_its_value() -> None:
    # (1 + n) / (10 + n): 1/10, 2/11, ..., 90/99 = 0.909 at n = 89; 0.99 is reached at n = 890.
    assert ramped_decay(0.99, 0) == pytest.approx(0.1)
    assert ramped_decay(0.99, 1) == pytest.approx(2 / 11)
    assert ramped_decay(0.99, 889) < 0.99
    assert ramped_decay(0.99, 890) == pytest.approx(0.99)
    assert ramped_decay(0.0, 50) == 0.0


def test_averages_by_hand() -> None:
    module = nn.BatchNorm1d(1)
    average = MovingAverage(module, decay=0.15)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.running_mean.fill_(4.0)
        module.num_batches_tracked.fill_(7)
    average.update(module, 0)
    # decay 1/10: 0.1 * 1 + 0.9 * 2 = 1.9; 0.1 * 0 + 0.9 * 4 = 3.6
    assert average.state["weight"].item() == pytest.approx(1.9)
    assert average.state["running_mean"].item() == pytest.approx(3.6)
    assert average.state["num_batches_tracked"].item() == 7
    average.update(module, 1)
    # decay min(0.15, 2/11): 0.15 * 1.9 + 0.85 * 2 = 1.985
    assert average.state["weight"].item() == pytest.approx(1.985)


def test_the_average_is_a_copy() -> None:
    module = nn.Linear(1, 1)
    average = MovingAverage(module, decay=0.9)
    before = average.state["weight"].clone()
    with torch.no_grad():
        module.weight.add_(1)
    assert torch.equal(average.state["weight"], before)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_model_comes_back_as_it_was(is_training: bool) -> None:
    module = nn.BatchNorm1d(1).train(is_training)
    average = MovingAverage(module, decay=0.9)
    with torch.no_grad():
        module.weight.fill_(2.0)
    with average.applied_to(module):
        assert not module.training
        assert module.weight.item() == 1.0
    assert module.training == is_training
    assert module.weight.item() == 2.0
    with pytest.raises(ZeroDivisionError), average.applied_to(module):
        _ = 1 / 0
    assert module.training == is_training
    assert module.weight.item() == 2.0
