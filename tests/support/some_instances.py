"""Random instances of an image of random size."""

import numpy as np

from raylabel.masks.rle import encode_masks
from raylabel.predictions.instances import Instances


def some_instances(num: int, num_classes: int, rng: np.random.Generator) -> Instances:
    """Return `num` instances with random masks, boxes and soft vectors."""
    size = (int(rng.integers(3, 12)), int(rng.integers(3, 12)))
    soft = rng.dirichlet(np.full(num_classes + 1, 0.3), size=num).astype(np.float32)
    return Instances(
        image_size_hw=size,
        boxes_xyxy=rng.random((num, 4)).astype(np.float32),
        masks=tuple(encode_masks(rng.random((num, *size)) < 0.4)),
        class_indices=soft[:, :-1].argmax(axis=1).astype(np.int32),
        raw_scores=soft[:, :-1].max(axis=1, initial=0),
        soft_vectors=soft,
        mask_quality=rng.random(num).astype(np.float32),
    )
