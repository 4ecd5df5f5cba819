"""Steps and predictions per second of the tiny model on one CPU thread: 128 px, batches of 8, 5 objects per image.

Compares several ways to compute the same results.

    OMP_NUM_THREADS=1 python benchmarks/tiny_model.py
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Segmenter, Target

SIZE, BATCH, OBJECTS, CLASSES = 128, 8, 5, 24


def target(generator: torch.Generator) -> Target:
    """Draw boxes of 20 to 38 pixels whose masks fill them."""
    corners = torch.rand(OBJECTS, 2, generator=generator) * 90
    boxes_xyxy = torch.cat([corners, corners + 20 + torch.rand(OBJECTS, 2, generator=generator) * 18], dim=1)
    masks = torch.zeros(OBJECTS, SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes_xyxy.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    class_probs = torch.eye(CLASSES + 1)[torch.randint(CLASSES, (OBJECTS,), generator=generator)]
    return Target(boxes_xyxy=boxes_xyxy, masks_NHW=masks, class_probs=class_probs, weights=torch.ones(OBJECTS))


def with_torchvisions_layers(segmenter: Segmenter) -> None:
    """Replace the light heads' pooling and mask layers by torchvision's and torch's."""
    heads = segmenter.roi_heads
    heads.box_roi_pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=1)
    heads.mask_roi_pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=10, sampling_ratio=1)
    heads.mask_predictor = nn.Sequential(*heads.mask_predictor)


class Training:
    """One way to compute training steps, on fixed images."""

    def __init__(self, *, plain: bool = False, fused: bool = True, channels_last: bool = False, bf16: bool = False):
        torch.manual_seed(0)
        self.segmenter = build_segmenter("tiny_maskrcnn", num_classes=CLASSES)
        if plain:
            with_torchvisions_layers(self.segmenter)
        if channels_last:
            self.segmenter.to(memory_format=torch.channels_last)
        generator = torch.Generator().manual_seed(0)
        self.images = [torch.rand(3, SIZE, SIZE, generator=generator) for _ in range(BATCH)]
        self.targets = [target(generator) for _ in range(BATCH)]
        parameters = [one for _, one in self.segmenter.named_parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=fused)
        self.bf16 = bf16

    def step(self, terms: frozenset[LossTerm] = LOSS_TERMS) -> None:
        """Run forward, backward and optimizer once."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = torch.stack(list(self.segmenter.losses(self.images, self.targets, terms=terms).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def predict(self) -> None:
        """Predict the images as one batch."""
        self.segmenter.predict(self.images, score_threshold=0.05, max_per_image=100)


def rates(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Measure calls per second of one thread's CPU time: the median of interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 2):
        for name, work in works.items():
            start = time.process_time()
            work()
            if number >= 2:
                seconds[name].append(time.process_time() - start)
    return {name: 1 / statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    torch.set_num_threads(1)
    ways = {
        "torchvision's layers, plain AdamW": Training(plain=True, fused=False),
        "ours": Training(),
        "ours, channels_last": Training(channels_last=True),
        "ours, bf16": Training(bf16=True),
        "ours, channels_last, bf16": Training(channels_last=True, bf16=True),
    }
    pool_terms: frozenset[LossTerm] = frozenset({"classes", "objectness"})
    first = next(iter(ways.values()))
    print(f"parameters {sum(one.numel() for _, one in first.segmenter.named_parameters()):,}")
    works: dict[str, Callable[[], object]] = {name: one.step for name, one in ways.items()}
    print_rates("steps/s, all losses", works)
    print_rates("steps/s, classes and objectness", {name: partial(one.step, pool_terms) for name, one in ways.items()})
    for one in ways.values():
        one.segmenter.load_state_dict(first.segmenter.state_dict())
    predictions = {name: one.predict for name, one in ways.items() if not one.bf16}
    print_rates("predicted images/s", predictions, num=BATCH)


def print_rates(what: str, works: dict[str, Callable[[], object]], num: int = 1) -> None:
    """Print one line per way, with its ratio to the first."""
    print(what)
    found = rates(works, rounds=30)
    for name, rate in found.items():
        print(f"  {name:36}{rate * num:7.2f}   x {rate / next(iter(found.values())):.2f}")


if __name__ == "__main__":
    main()
