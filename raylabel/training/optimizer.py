"""The optimizer of a training and its learning rate."""

import math

import torch

from raylabel.config import TrainingConfig
from raylabel.models.protocols import Segmenter
from raylabel.training.job import TrainJob

WARMUP_STEPS = 50
FINAL_RATE_SHARE = 0.01


def learning_rate(step: int, job: TrainJob) -> float:
    """Rate at a step: linear warm-up from `start_step`, times a cosine over all `steps` to a hundredth of the peak."""
    num_warmup = min(WARMUP_STEPS, max(1, (job.steps - job.start_step) // 4))
    warmup = min(1.0, (step - job.start_step + 1) / num_warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * step / job.steps))
    return job.settings.learning_rate * warmup * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * cosine)


def build_optimizer(segmenter: Segmenter, settings: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; biases and the gains of norms (one-dimensional parameters) are not decayed."""
    parameters = [one for _, one in segmenter.named_parameters() if one.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)
