"""Steps and predictions a second of the tiny model on one CPU thread: 128 px, batches of 8, 5 objects an image.

OMP_NUM_THREADS=1 python benchmarks/tiny_model.py
"""

import time
from collections.abc import Callable

import torch

from raylabel.models import build_segmenter
from raylabel.models.protocols import LOSS_TERMS, LossTerm, Target

SIZE, BATCH, OBJECTS, CLASSES = 128, 8, 5, 24


def target(generator: torch.Generator) -> Target:
    """Boxes filled as masks, of 20 to 38 pixels."""
    corners = torch.rand(OBJECTS, 2, generator=generator) * 90
    boxes_xyxy = torch.cat([corners, corners + 20 + torch.rand(OBJECTS, 2, generator=generator) * 18], dim=1)
    masks = torch.zeros(OBJECTS, SIZE, SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes_xyxy.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    class_probs = torch.eye(CLASSES + 1)[torch.randint(CLASSES, (OBJECTS,), generator=generator)]
    return Target(boxes_xyxy=boxes_xyxy, masks_NHW=masks, class_probs=class_probs, weights=torch.ones(OBJECTS))


def rate(work: Callable[[], object], repeats: int = 15) -> float:
    """Calls a second, after three to warm up."""
    for _ in range(3):
        work()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return repeats / (time.perf_counter() - start)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    segmenter = build_segmenter("tiny_maskrcnn", num_classes=CLASSES)
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, SIZE, SIZE, generator=generator) for _ in range(BATCH)]
    targets = [target(generator) for _ in range(BATCH)]
    optimizer = torch.optim.AdamW([one for _, one in segmenter.named_parameters()], lr=1e-3)

    def step(terms: frozenset[LossTerm]) -> None:
        loss = torch.stack(list(segmenter.losses(images, targets, terms=terms).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    print(f"parameters                       {sum(one.numel() for _, one in segmenter.named_parameters()):,}")
    print(f"steps/s, all losses              {rate(lambda: step(LOSS_TERMS)):.2f}")
    print(f"steps/s, classes and objectness  {rate(lambda: step(frozenset({'classes', 'objectness'}))):.2f}")
    images_rate = BATCH * rate(lambda: segmenter.predict(images, score_threshold=0.05, max_per_image=100))
    print(f"predicted images/s               {images_rate:.1f}")


if __name__ == "__main__":
    main()
