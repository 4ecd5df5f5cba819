"""The exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from raylabel.models.segmenter import Segmenter


def ramped_decay(decay: float, num_updates: int) -> float:
    """Compute the decay of update n, `min(decay, (1 + n) / (10 + n))`. Early updates forget the first weights fast."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


class MovingAverage:
    """The moving average of every floating-point tensor of a model's state. Other tensors are copied.

    Args:
        segmenter: model whose current state is the first average.
        decay: share of the old average that an update keeps, in [0, 1). See `ramped_decay`.
    """

    def __init__(self, segmenter: Segmenter, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in segmenter.state_dict().items()}

    @torch.no_grad()
    def update(self, segmenter: Segmenter, num_updates: int) -> None:
        """Add the current weights: `average <- d * average + (1 - d) * weights`.

        Args:
            segmenter: the model in training.
            num_updates: number of updates before this one.
        """
        decay = ramped_decay(self.decay, num_updates)
        state = segmenter.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        # One call for all tensors, because a call per tensor would be a kernel launch per tensor on a GPU.
        torch._foreach_lerp_([self.state[name] for name in floats], [state[name] for name in floats], 1 - decay)
        for name in state.keys() - set(floats):
            self.state[name].copy_(state[name])

    @contextmanager
    def applied_to(self, segmenter: Segmenter) -> Iterator[None]:
        """Give a model the averaged state in eval mode inside the block, and restore its own state afterwards."""
        own = {name: value.detach().clone() for name, value in segmenter.state_dict().items()}
        was_training = segmenter.training
        segmenter.load_state_dict(self.state)
        segmenter.eval()
        try:
            yield
        finally:
            segmenter.load_state_dict(own)
            segmenter.train(was_training)
