"""Training examples from annotated sets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.errors import InputError
from raylabel.files.json_files import commit_json
from raylabel.masks.rle import encode_masks
from raylabel.training.augment.views import no_augmentation
from raylabel.training.examples import LabelledExamples, target_of

HEIGHT, WIDTH = 20, 30
RNG = np.random.default_rng(0)


def write_image(path: Path, shade: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), shade, np.uint8)).save(path)


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedSet:
    """Two images: one with two objects, a crowd region and a sliver; one without objects."""
    for number, shade in ((1, 51), (2, 102)):
        write_image(tmp_path / "images" / f"{number}.png", shade)

    def annotation(number: int, category_id: int, box: list[float], *, iscrowd: int = 0) -> dict[str, object]:
        x, y, w, h = box
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        return {
            "id": number,
            "image_id": 1,
            "category_id": category_id,
            "bbox": box,
            "area": w * h,
            "iscrowd": iscrowd,
            "segmentation": [polygon],
        }

    commit_json(
        str(tmp_path / "set.json"),
        {
            "images": [
                {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in (1, 2)
            ],
            "categories": [{"id": 7, "name": "a"}, {"id": 9, "name": "b"}],
            "annotations": [
                annotation(1, 9, [2, 3, 10, 8]),
                annotation(2, 7, [15, 5, 10, 10]),
                annotation(3, 7, [0, 0, 30, 20], iscrowd=1),
                annotation(4, 7, [5, 5, 0.5, 6]),
            ],
        },
    )
    return read_annotations(str(tmp_path / "set.json"), str(tmp_path / "images"))


def test_labelled_examples_leave_out_crowds_and_slivers(annotated: AnnotatedSet) -> None:
    table = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0]], np.float32)
    examples = LabelledExamples(annotated, table, max_pixels=10_000, augment=no_augmentation)
    image, target = examples.load(0, RNG)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert torch.allclose(image, torch.tensor(0.2))
    assert target.boxes_xyxy.tolist() == [[2, 3, 12, 11], [15, 5, 25, 15]]
    torch.testing.assert_close(target.class_probs, torch.from_numpy(table[[1, 0]]))
    assert target.masks_NHW.shape == (2, HEIGHT, WIDTH)
    assert target.masks_NHW[0].sum() == 80
    assert [classes.tolist() for classes in examples.image_classes()] == [[0, 1], []]
    _, nothing = examples.load(1, RNG)
    assert len(nothing) == 0
    assert nothing.class_probs.shape == (0, 3)


def always_pasted(annotated: AnnotatedSet) -> LabelledExamples:
    """Return examples that always get the rare objects of another image. At threshold 1 both classes are rare."""
    return LabelledExamples(
        annotated,
        np.eye(2, 3, dtype=np.float32),
        max_pixels=10_000,
        augment=no_augmentation,
        copy_paste=1.0,
        repeat_threshold=1.0,
    )


def test_rare_objects_are_pasted_into_labelled_images(annotated: AnnotatedSet) -> None:
    """Both classes are in one of two images. At threshold 1 both are rare, so that image is the donor."""
    examples = always_pasted(annotated)
    image, target = examples.load(1, np.random.default_rng(0))
    assert sorted(target.class_probs.argmax(dim=1).tolist()) == [0, 1]
    # The donor has brightness 0.2, the image 0.4.
    assert torch.equal(image[0] < 0.3, target.masks_NHW.bool().any(dim=0))
    again, _ = examples.load(1, np.random.default_rng(0))
    assert torch.equal(again, image)


def test_an_image_that_cannot_be_read_or_has_another_size_is_named(annotated: AnnotatedSet, tmp_path: Path) -> None:
    examples = LabelledExamples(annotated, np.eye(2, 3, dtype=np.float32), max_pixels=10_000)
    (tmp_path / "images" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.png"):
        examples.load(0, RNG)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "images" / "2.png")
    with pytest.raises(
        InputError, match=r"2\.png: .* another size: 9 x 9 pixels \(width x height\), annotated as 30 x 20"
    ):
        examples.load(1, RNG)


def test_objects_of_one_pixel_are_kept_and_smaller_ones_are_not() -> None:
    boxes = np.array([[3, 4, 4, 5], [3, 4, 3.9, 9], [3, 4, 9, 4.9], [-2, 4, 1, 5], [-2, 4, 0.5, 9]], np.float32)
    masks = encode_masks(np.ones((5, HEIGHT, WIDTH), bool))
    weights, location = np.arange(5, dtype=np.float32), np.arange(5, 10, dtype=np.float32)
    target = target_of((HEIGHT, WIDTH), boxes, masks, np.eye(5, 6), weights, location)
    assert target.boxes_xyxy.tolist() == [[3, 4, 4, 5], [0, 4, 1, 5]]
    assert target.weights.tolist() == [0, 3]
    assert target.location_weights.tolist() == [5, 8]
    assert target.class_probs.argmax(dim=1).tolist() == [0, 3]
    assert target_of((HEIGHT, WIDTH), boxes, masks, np.eye(5, 6), weights).location_weights.tolist() == [1, 1]


@pytest.mark.parametrize("chance", [0.25, 0.75])
def test_rare_objects_are_pasted_by_chance_and_common_ones_are_not(annotated: AnnotatedSet, chance: float) -> None:
    """At threshold 0.75 a class in one of two images is rare. Without its image, class a would be the only one."""
    frequent = AnnotatedSet.of_records(
        annotated.images,
        annotated.categories,
        [annotated.annotations[0], annotated.annotations[0][1:2]],
        is_federated=annotated.is_federated,
    )
    examples = LabelledExamples(
        frequent,
        np.eye(2, 3, dtype=np.float32),
        max_pixels=10_000,
        augment=no_augmentation,
        copy_paste=chance,
        repeat_threshold=0.75,
    )
    rng = np.random.default_rng(0)
    pasted = [sorted(examples.load(1, rng)[1].class_probs.argmax(dim=1).tolist()) for _ in range(200)]
    assert {tuple(classes) for classes in pasted} <= {(0,), (0, 1), (1,)}
    assert np.mean([1 in classes for classes in pasted]) == pytest.approx(chance, abs=0.1)


def test_crowd_regions_are_never_pasted(annotated: AnnotatedSet) -> None:
    """The donor's crowd region of the rare class a covers the whole image."""
    examples = always_pasted(annotated)
    _, target = examples.load(1, np.random.default_rng(0))
    assert target.masks_NHW.bool().any(dim=0).sum() <= 80 + 100


def test_a_larger_image_is_not_read(annotated: AnnotatedSet) -> None:
    targets = np.eye(2, 3, dtype=np.float32)
    assert LabelledExamples(annotated, targets, max_pixels=HEIGHT * WIDTH).load(0, RNG)
    with pytest.raises(InputError, match=r"1\.png: .*too large"):
        LabelledExamples(annotated, targets, max_pixels=HEIGHT * WIDTH - 1).load(0, RNG)
