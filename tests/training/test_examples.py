"""Examples from annotated sets and from a run's pseudo-labels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from raylabel.config import SelectionConfig
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.errors import InputError
from raylabel.instances import Instances
from raylabel.label_rows import InstanceRows
from raylabel.labels import PseudoLabels, shard_uri
from raylabel.masks import encode_masks
from raylabel.schema import LABELS
from raylabel.storage import RunFolder, commit_json, commit_table
from raylabel.training.augment import no_augmentation
from raylabel.training.examples import LabelledExamples, PoolExamples

HEIGHT, WIDTH = 20, 30
RNG = np.random.default_rng(0)


def write_image(path: Path, shade: int) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), shade, np.uint8)).save(path)


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedSet:
    """Two images: one with two objects, a crowd and a sliver; one with nothing."""
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


def test_rare_objects_are_pasted_into_labelled_images(annotated: AnnotatedSet) -> None:
    """Both classes are in one of two images: with a threshold of 1 both are rare, and their image gives them."""
    examples = LabelledExamples(
        annotated,
        np.eye(2, 3, dtype=np.float32),
        max_pixels=10_000,
        augment=no_augmentation,
        copy_paste=1.0,
        repeat_threshold=1.0,
    )
    image, target = examples.load(1, np.random.default_rng(0))
    assert sorted(target.class_probs.argmax(dim=1).tolist()) == [0, 1]
    # The donor is .2 bright, the image .4.
    assert torch.equal(image[0] < 0.3, target.masks_NHW.bool().any(dim=0))
    again, _ = examples.load(1, np.random.default_rng(0))
    assert torch.equal(again, image)


def test_an_image_that_cannot_be_read_or_has_another_size_is_named(annotated: AnnotatedSet, tmp_path: Path) -> None:
    examples = LabelledExamples(annotated, np.eye(2, 3, dtype=np.float32), max_pixels=10_000)
    (tmp_path / "images" / "1.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.png"):
        examples.load(0, RNG)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "images" / "2.png")
    with pytest.raises(InputError, match=r"2\.png: must be \(20, 30\)"):
        examples.load(1, RNG)


def write_labels(tmp_path: Path) -> PseudoLabels:
    """Three images of a pool of two classes: two predictions, quarantined, none."""
    write_image(tmp_path / "pool" / "a.png", 51)
    write_image(tmp_path / "pool" / "c.png", 51)
    masks = np.zeros((2, HEIGHT, WIDTH), bool)
    masks[0, 2:8, 3:9] = masks[1, 10:18, 12:28] = True
    instances = Instances(
        image_size_hw=(HEIGHT, WIDTH),
        boxes_xyxy=np.array([[3, 2, 9, 8], [12, 10, 28, 18]], np.float32),
        masks=tuple(encode_masks(masks)),
        class_indices=np.array([1, 0], np.int32),
        raw_scores=np.array([0.6, 0.5], np.float32),
        soft_vectors=np.array([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]], np.float32),
        mask_quality=np.array([0.9, 0.9], np.float32),
    )
    size = {"height": HEIGHT, "width": WIDTH}
    instance_rows = InstanceRows(top_k=3)
    instance_rows.append(instances)
    [structs] = instance_rows.to_arrow(np.array([0.8, 0.2], np.float32)).to_pylist()
    rows = [
        {"image_id": "a", "uri": str(tmp_path / "pool" / "a.png"), "status": "ok", "instances": structs, **size},
        {"image_id": "b", "uri": str(tmp_path / "pool" / "b.png"), "status": "missing", "instances": [], **size},
        {"image_id": "c", "uri": str(tmp_path / "pool" / "c.png"), "status": "ok", "instances": [], **size},
    ]
    run = RunFolder(str(tmp_path / "run"))
    commit_table(shard_uri(run, 0), pa.Table.from_pylist(rows[:2], schema=LABELS))
    commit_table(shard_uri(run, 1), pa.Table.from_pylist(rows[2:], schema=LABELS))
    return PseudoLabels(run, num_classes=2)


@pytest.mark.parametrize("weight_by_score", [False, True])
def test_pool_examples_are_what_selection_keeps_with_corrected_vectors(weight_by_score: bool, tmp_path: Path) -> None:
    groups = np.array(["r", "f"])
    examples = PoolExamples(
        write_labels(tmp_path),
        SelectionConfig(min_score=0.5),
        groups,
        max_pixels=10_000,
        weight_by_score=weight_by_score,
        augment=no_augmentation,
    )
    assert len(examples) == 2, "the quarantined image is left out"
    assert [classes.tolist() for classes in examples.image_classes()] == [[1], []]
    _, target = examples.load(0, RNG)
    assert target.boxes_xyxy.tolist() == [[3, 2, 9, 8]]
    assert target.masks_NHW.sum() == 36
    # The predicted class's entry becomes the calibrated score .8, the rest keeps its proportions 1 : 3 in what remains.
    torch.testing.assert_close(target.class_probs, torch.tensor([[0.05, 0.8, 0.15]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.weights, torch.tensor([0.8 if weight_by_score else 1.0]))
    _, nothing = examples.load(1, RNG)
    assert len(nothing) == 0


@pytest.mark.parametrize(("doubtful_score", "num"), [(0.5, 2), (0.7, 1)])
def test_dropped_predictions_of_enough_foreground_have_weight_0(
    doubtful_score: float, num: int, tmp_path: Path
) -> None:
    examples = PoolExamples(
        write_labels(tmp_path),
        SelectionConfig(min_score=0.5),
        np.array(["r", "f"]),
        max_pixels=10_000,
        doubtful_score=doubtful_score,
        augment=no_augmentation,
    )
    _, target = examples.load(0, RNG)
    assert target.weights.tolist() == [1.0, 0.0][:num], "the dropped one is foreground by .6"
    assert [classes.tolist() for classes in examples.image_classes()] == [[1], []]
