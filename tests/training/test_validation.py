"""AP during training, on evenly spaced images of the validation split."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.files.json_files import commit_json
from raylabel.masks.rle import encode_masks
from raylabel.predictions.instances import Instances
from raylabel.training.validation import ValidationAP

SIDE = 40


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedSet:
    """Five images with one square of class 0. Image n has brightness n * 50."""
    for number in range(5):
        Image.fromarray(np.full((SIDE, SIDE, 3), number * 50, np.uint8)).save(tmp_path / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE} for number in range(5)]
    square = {"category_id": 4, "iscrowd": 0, "bbox": [8, 8, 20, 20], "area": 400}
    square["segmentation"] = [[8, 8, 28, 8, 28, 28, 8, 28]]
    annotations = [{"id": 1 + number, "image_id": number, **square} for number in range(5)]
    categories = [{"id": 4, "name": "a"}, {"id": 6, "name": "b"}]
    commit_json(str(tmp_path / "set.json"), {"images": images, "annotations": annotations, "categories": categories})
    return read_annotations(str(tmp_path / "set.json"), str(tmp_path))


class Knowing(torch.nn.Module):
    """Finds the square in images that are brighter than a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(threshold))
        self.seen: list[float] = []

    def predict(self, images: list[torch.Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        self.seen += [round(image.mean().item() * 255) for image in images]
        found = []
        for image in images:
            num = int(image.mean() >= self.threshold)
            masks = np.zeros((num, SIDE, SIDE), bool)
            masks[:, 8:28, 8:28] = True
            found.append(
                Instances(
                    image_size_hw=(SIDE, SIDE),
                    boxes_xyxy=np.array([[8, 8, 28, 28]], np.float32)[:num],
                    masks=tuple(encode_masks(masks)),
                    class_indices=np.zeros(num, np.int32),
                    raw_scores=np.full(num, 0.9, np.float32),
                    soft_vectors=np.array([[0.9, 0.0, 0.1]], np.float32)[:num],
                    mask_quality=np.ones(num, np.float32),
                )
            )
        return found


def test_ap_of_the_chosen_images_by_hand(annotated: AnnotatedSet) -> None:
    calls: list[int] = []

    def load() -> AnnotatedSet:
        calls.append(1)
        return annotated

    evaluate = ValidationAP(load, num_images=3, frequency_groups={4: "r", 6: "f"}, max_pixels=10_000)
    assert not calls, "the split is read only when it is needed"
    seeing_all = Knowing(0.0)
    # Only class a has objects, and it is rare.
    assert evaluate(seeing_all) == {"AP": pytest.approx(1.0), "APr": pytest.approx(1.0)}
    assert seeing_all.seen == [0, 100, 200], "evenly chosen from five"
    # Two of three squares are found, no false one: precision 1 at recalls 0, 0.01, ..., 0.66, so at 67 of 101.
    assert evaluate(Knowing(0.2))["AP"] == pytest.approx(67 / 101)
    assert len(calls) == 1
