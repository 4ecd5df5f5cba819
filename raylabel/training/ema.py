"""Exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from raylabel.models.segmenter import Segmenter


def ramped_decay(decay: float, num_updates: int) -> float:
    """Decay at the n-th update, `min(decay, (1 + n) / (10 + n))`, so that the first weights are soon forgotten."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


class MovingAverage:
    """Average of every floating-point tensor of a model's state; other tensors are copied.

    Args:
        segmenter: its current state is the first average.
        decay: share of the old average that an update keeps, in [0, 1); it is ramped up.
    """

    def __init__(self, segmenter: Segmenter, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in segmenter.state_dict().items()}

    @torch.no_grad()
    def update(self, segmenter: Segmenter, num_updates: int) -> None:
        """Take in the current weights: `average <- d * average + (1 - d) * weights`.

        Args:
            segmenter: the model in training.
            num_updates: updates before this one.
        """
        decay = ramped_decay(self.decay, num_updates)
        state = segmenter.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        # All at once: one by one they are as many launches on a GPU as the model has tensors.
        torch._foreach_lerp_([self.state[name] for name in floats], [state[name] for name in floats], 1 - decay)
        for name in state.keys() - set(floats):
            self.state[name].copy_(state[name])

    @contextmanager
    def applied_to(self, segmenter: Segmenter) -> Iterator[None]:
        """Give a model the averaged state for a while, in eval mode; it gets its own back to the bit."""
        own = {name: value.detach().clone() for name, value in segmenter.state_dict().items()}
        was_training = segmenter.training
        segmenter.load_state_dict(self.state)
        segmenter.eval()
        try:
            yield
        finally:
            segmenter.load_state_dict(own)
            segmenter.train(was_training)
