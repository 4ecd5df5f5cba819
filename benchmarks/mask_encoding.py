"""Time of encoding masks by box against pasting and pycocotools, and of post-processing against a forward pass.

    python benchmarks/mask_encoding.py

Figures are the shortest CPU seconds on one thread, measured in turns. All encodings must have the same bytes. The
forward pass comes first, as in a worker: what it frees decides how the C library hands out memory later.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import nn

from raylabel.masks.encode_boxes import encode_boxes
from raylabel.models.rcnn.soft_maskrcnn import _instances
from untrained import build


def main() -> None:
    torch.set_num_threads(1)
    segmenter = build("maskrcnn_mobilenet_v3_large_fpn", 80, [torch.rand(3, 480, 640) for _ in range(2)])
    image = torch.rand(1, 3, 480, 640)
    found: list[Any] = []

    def forward() -> None:
        with torch.inference_mode():
            segmenter.eval()
            batch, features = segmenter._features(list(image))
            proposals, _ = segmenter.rpn(batch, features)
            found[:] = segmenter.roi_heads.detect(
                features, proposals, batch.image_sizes, score_threshold=0.0, max_per_image=100
            )

    forward()
    ahead, after = alternating(forward, lambda: _instances(found[0], (480, 640), (480, 640)), repeats=4)
    instances = _instances(found[0], (480, 640), (480, 640))
    print(
        f"MobileNet: forward {1000 * ahead:.0f} ms, post-processing of {len(instances)} instances "
        f"(mean {instances.mask_areas.mean():.0f} pixels) {1000 * after:.1f} ms, {after / ahead:.3f} of that"
    )

    print(
        f"\n{'side of box':<14}{'pasted, pycocotools':>20}{'by box':>12}{'ratio':>8}   (ms for 100 masks in 640 x 480)"
    )
    rng = np.random.default_rng(0)
    for side in (32, 64, 100, 150, 200):
        boxes, corners = [], []
        for _ in range(100):
            height, width = np.minimum(rng.integers(side // 2, side * 3 // 2, 2), (480, 640)).tolist()
            corners.append((int(rng.integers(481 - height)), int(rng.integers(641 - width))))
            blob = torch.tensor(rng.random((1, 1, 6, 6)), dtype=torch.float32)
            soft = nn.functional.interpolate(blob, size=(height, width), mode="bicubic")[0, 0].numpy()
            y, x = np.mgrid[:height, :width]
            boxes.append(soft * 0.6 + 1 - (2 * y / height - 1) ** 2 - (2 * x / width - 1) ** 2 > 0.5)

        def pasted(boxes: list[NDArray[np.bool_]] = boxes, corners: list[tuple[int, int]] = corners) -> list[Any]:
            found = []
            for box, (top, left) in zip(boxes, corners, strict=True):
                image = np.zeros((480, 640), np.uint8, order="F")
                image[top : top + box.shape[0], left : left + box.shape[1]] = box
                found.append(coco_mask.encode(image))
            return found

        assert pasted() == encode_boxes(boxes, corners, (480, 640))
        slow, fast = alternating(pasted, lambda b=boxes, c=corners: encode_boxes(b, c, (480, 640)))
        print(f"{side:<14}{1000 * slow:20.2f}{1000 * fast:12.2f}{slow / fast:8.1f}")


def alternating(first: Callable[[], Any], second: Callable[[], Any], repeats: int = 15) -> tuple[float, float]:
    """Measure both in turns and return the shortest CPU seconds of each."""
    best = [np.inf, np.inf]
    for _ in range(repeats):
        for place, work in enumerate((first, second)):
            start = time.process_time()
            work()
            best[place] = min(best[place], time.process_time() - start)
    return best[0], best[1]


if __name__ == "__main__":
    main()
