"""Pseudo-labels streamed from committed shards: which images come, how often, and with which targets."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from pool_world import SIDE, labelled_row, pool_run, write_shard
from raylabel.config import SelectionConfig, TrainingConfig
from raylabel.dataset.sampling import repeat_factors
from raylabel.errors import InputError
from raylabel.files.tables import commit_table, read_table
from raylabel.masks.rle import encode_masks
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards, foreground_probs, instances_from_structs, labelled_images
from raylabel.schema import INSTANCE
from raylabel.training.augment.views import Augment, no_augmentation
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch
from raylabel.training.job import TrainJob
from raylabel.training.pool import order
from raylabel.training.pool import stream as pool_stream
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.index import PoolIndex, ensure_index, index_pool
from raylabel.training.pool.stream import PoolStream
from raylabel.training.pool.targets import PoolTargets

RNG = np.random.default_rng(0)
CLASSES = [[[0], [0, 1], []], [[0], [0]], [], [[0, 0, 2], [0]]]
"""Shard, image -> classes."""


def choice_of(num_classes: int, **selection: float) -> PoolChoice:
    return PoolChoice(selection=SelectionConfig(**selection), frequency_groups=np.array(["f"] * num_classes))


def stream_of(
    run: RunFolder, choice: PoolChoice, *, threshold: float = 0.0, seed: int = 0, targets: PoolTargets | None = None
) -> PoolStream:
    table = index_pool(committed_shards(run), choice, threshold=threshold)
    index = PoolIndex.from_table(table)
    return PoolStream(
        run, index, choice, targets or PoolTargets(), seed=seed, max_pixels=10_000, augment=no_augmentation
    )


def image_number(image: torch.Tensor) -> int:
    return round(float(image[0, 0, 0]) * 255)


def test_the_index_counts_images_with_each_class_and_draws(tmp_path: Path) -> None:
    run = pool_run(tmp_path, CLASSES, num_classes=3)
    table = index_pool(committed_shards(run), choice_of(3), threshold=0.6)
    assert table["num_images"].to_pylist() == [3, 2, 0, 2]
    assert table["num_kept"].to_pylist() == [3, 2, 0, 4]
    flat = [np.array(image, int) for shard in CLASSES for image in shard]
    factors = repeat_factors(flat, 3, 0.6)  # of class 1 and 2: sqrt(0.6 * 7 / 1)
    assert factors.max() == pytest.approx(np.sqrt(4.2))
    np.testing.assert_allclose(
        table["sum_factors"].to_numpy(), [factors[:3].sum(), factors[3:5].sum(), 0, factors[5:].sum()]
    )
    index = PoolIndex.from_table(table)
    assert (index.num_images, index.num_kept) == (7, 9)
    np.testing.assert_allclose(index.class_factors, [1, np.sqrt(4.2), np.sqrt(4.2)])


def test_an_index_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    run, uri = pool_run(tmp_path, CLASSES, num_classes=3), str(tmp_path / "index.parquet")
    shards, choice = committed_shards(run), choice_of(3)
    made = ensure_index(uri, shards, choice, threshold=0.6, label="pool index")
    table = read_table(uri)
    earlier = table.replace_schema_metadata(None).append_column("classes", [[[0]] * len(table)])
    commit_table(uri, earlier)
    again = ensure_index(uri, shards, choice, threshold=0.6, label="pool index")
    np.testing.assert_array_equal(again.class_factors, made.class_factors)
    assert read_table(uri).equals(table, check_metadata=True)


@pytest.mark.parametrize("threshold", [0.0, 0.6])
@pytest.mark.parametrize("window_draws", [1, 1000])
def test_images_are_drawn_by_their_factors_and_quarantined_ones_are_not(
    threshold: float, window_draws: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order.PoolOrder.__init__, "__kwdefaults__", {"window_draws": window_draws})
    run = pool_run(tmp_path, CLASSES, num_classes=3)
    stream = stream_of(run, choice_of(3), threshold=threshold)
    factors = repeat_factors([np.array(image, int) for shard in CLASSES for image in shard], 3, threshold)
    num = 40 * int(np.ceil(factors.sum()))
    counts = Counter(image_number(stream.load(draw, RNG)[0]) for draw in range(num))
    np.testing.assert_allclose([counts[image] / num for image in range(7)], factors / factors.sum(), atol=0.02)
    assert len(stream._open) <= pool_stream.WINDOWS_HELD


def batches_of(stream: PoolStream, *, part: int, num_parts: int, steps: range) -> list[Batch]:
    job = TrainJob(
        settings=TrainingConfig(),
        steps=99,
        labelled=_OneImage(),
        labelled_per_batch=1,
        pool=stream,
        unlabelled_per_batch=5,
        seed=3,
    )
    source = BatchSource(job, num_parts)
    return [source.batch(step, part) for step in steps]


class _OneImage:
    num_classes = 3

    def __len__(self) -> int:
        return 1

    def image_classes(self) -> list[np.ndarray]:
        return [np.zeros(0, np.int32)]

    def image_id(self, index: int) -> str:
        return str(index)

    def load(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, object]:
        return torch.zeros(3, 4, 4), None


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(num_parts=st.integers(1, 6), restored=st.integers(0, 7), seed=st.integers(0, 2**31))
def test_ranks_share_the_batch_and_a_restored_training_sees_the_same(
    num_parts: int, restored: int, seed: int, tmp_path: Path
) -> None:
    run = pool_run(tmp_path, CLASSES, num_classes=3)
    choice = choice_of(3)
    whole = batches_of(stream_of(run, choice, threshold=0.6, seed=seed), part=0, num_parts=1, steps=range(8))
    parts = [
        batches_of(
            stream_of(run, choice, threshold=0.6, seed=seed), part=part, num_parts=num_parts, steps=range(restored, 8)
        )
        for part in range(num_parts)
    ]
    for number, batch in enumerate(whole[restored:]):
        together = [image for part in parts for image in part[number].pool_images]
        assert len(together) == 5
        for image, expected in zip(together, batch.pool_images, strict=True):
            assert torch.equal(image, expected)
        targets = [target for part in parts for target in part[number].pool_targets]
        for target, expected_target in zip(targets, batch.pool_targets, strict=True):
            assert torch.equal(target.class_probs, expected_target.class_probs)
            assert torch.equal(target.masks_NHW, expected_target.masks_NHW)


def two_predictions(tmp_path: Path) -> RunFolder:
    """Write an image with two predictions: score 0.8, foreground 0.7 (kept); score 0.2, foreground 0.6 (dropped)."""
    Image.fromarray(np.full((SIDE, SIDE, 3), 51, np.uint8)).save(tmp_path / "a.png")
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, 2:8, 3:9] = masks[1, 10:14, 2:15] = True
    run = RunFolder(str(tmp_path / "run"))
    soft = [[0.1, 0.6, 0.3], [0.5, 0.1, 0.4]]
    row = labelled_row("a", str(tmp_path / "a.png"), (SIDE, SIDE), soft, [0.8, 0.2], masks, [0.9, 0.5])
    write_shard(run, 0, [row])
    return run


@pytest.mark.parametrize("weight_by_score", [False, True])
def test_what_selection_keeps_is_learnt_with_corrected_vectors(weight_by_score: bool, tmp_path: Path) -> None:
    targets = PoolTargets(weight_by_score=weight_by_score)
    image, target = stream_of(two_predictions(tmp_path), choice_of(2, min_score=0.5), targets=targets).load(0, RNG)
    assert torch.allclose(image, torch.tensor(0.2))
    assert target.boxes_xyxy.tolist() == [[3, 2, 9, 8]]
    assert target.masks_NHW.sum() == 36
    # The entry of the predicted class becomes the calibrated score 0.8. The others share 0.2 as before, 1 : 3.
    torch.testing.assert_close(target.class_probs, torch.tensor([[0.05, 0.8, 0.15]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.weights, torch.tensor([0.8 if weight_by_score else 1.0]))


@pytest.mark.parametrize(("doubtful_score", "weights"), [(0.5, [1.0, 0.0]), (0.7, [1.0])])
def test_dropped_predictions_of_enough_foreground_have_weight_0(
    doubtful_score: float, weights: list[float], tmp_path: Path
) -> None:
    targets = PoolTargets(doubtful_score=doubtful_score)
    _, target = stream_of(two_predictions(tmp_path), choice_of(2, min_score=0.5), targets=targets).load(0, RNG)
    assert target.weights.tolist() == weights, "the dropped prediction has foreground 0.6"


def test_with_a_doubtful_score_of_1_every_dropped_prediction_is_background() -> None:
    """Even one whose background probability vanishes in single precision."""
    instances = Instances(
        image_size_hw=(8, 8),
        boxes_xyxy=np.float32([[0, 0, 4, 4]]),
        masks=tuple(encode_masks(np.ones((1, 8, 8), bool))),
        class_indices=np.int32([0]),
        raw_scores=np.float32([1]),
        soft_vectors=np.float32([[1, 0, 1e-9]]),
        mask_quality=np.float32([1]),
    )
    for doubtful_score, num in ((1.0, 0), (0.99, 1)):
        target = PoolTargets(doubtful_score=doubtful_score).of(instances, instances.raw_scores, np.array([False]))
        assert len(target) == num


def test_doubtful_predictions_have_weight_0_beside_weights_by_score(tmp_path: Path) -> None:
    targets = PoolTargets(doubtful_score=0.5, weight_by_score=True)
    _, target = stream_of(two_predictions(tmp_path), choice_of(2, min_score=0.5), targets=targets).load(0, RNG)
    torch.testing.assert_close(target.weights, torch.tensor([0.8, 0.0]))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (PoolTargets(is_soft=False), [0.0, 1.0, 0.0]),
        (PoolTargets(is_soft=False, is_corrected=False), [0.0, 1.0, 0.0]),
        (PoolTargets(is_corrected=False), [0.1, 0.6, 0.3]),
        (PoolTargets(), [0.05, 0.8, 0.15]),
    ],
)
def test_targets_are_soft_or_hard_corrected_or_raw(targets: PoolTargets, expected: list[float], tmp_path: Path) -> None:
    _, target = stream_of(two_predictions(tmp_path), choice_of(2, min_score=0.5), targets=targets).load(0, RNG)
    torch.testing.assert_close(target.class_probs, torch.tensor([expected]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("weight_by_quality", "expected"), [(True, [0.9, 0.5]), (False, [1.0, 1.0])])
def test_location_may_be_weighed_by_mask_quality(
    weight_by_quality: bool, expected: list[float], tmp_path: Path
) -> None:
    targets = PoolTargets(weight_by_quality=weight_by_quality)
    _, target = stream_of(two_predictions(tmp_path), choice_of(2, min_score=0.1), targets=targets).load(0, RNG)
    torch.testing.assert_close(target.location_weights, torch.tensor(expected))
    assert target.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("min_foreground", "classes"), [(0.55, [1, 0]), (0.65, [1]), (0.75, [])])
def test_selection_by_foreground_looks_at_background_alone(
    min_foreground: float, classes: list[int], tmp_path: Path
) -> None:
    choice = replace(choice_of(2, min_score=0.99), min_foreground=min_foreground)
    run = two_predictions(tmp_path)
    table = index_pool(committed_shards(run), choice, threshold=0.0)
    assert table["num_kept"].to_pylist() == [len(classes)]
    _, target = stream_of(run, choice).load(0, RNG)
    assert target.class_probs[:, :-1].argmax(dim=1).tolist() == classes


def test_thresholds_per_group_do_not_judge_foreground(tmp_path: Path) -> None:
    """The foreground is 0.7 and 0.6, and the smallest score of the group is 0.95."""
    choice = PoolChoice(
        selection=SelectionConfig(min_score_by_group={"f": 0.95}),
        frequency_groups=np.array(["f", "f"]),
        min_foreground=0.65,
    )
    _, target = stream_of(two_predictions(tmp_path), choice).load(0, RNG)
    assert target.class_probs[:, :-1].argmax(dim=1).tolist() == [1]


@pytest.mark.parametrize(
    ("selection", "num"),
    [
        ({}, 2),
        ({"min_mask_quality": 0.6}, 1),
        ({"min_area": 50}, 1),
        ({"max_per_image": 1}, 1),
        ({"min_score_by_group": {"r": 0.3}}, 1),
        ({"min_score": 0.3}, 1),
    ],
)
@pytest.mark.parametrize("by_foreground", [False, True])
def test_every_limit_of_selection_counts(
    selection: dict[str, Any], num: int, by_foreground: bool, tmp_path: Path
) -> None:
    """The scores are 0.8 and 0.2, the qualities 0.9 and 0.5, the areas 36 and 52. By foreground no score counts."""
    choice = PoolChoice(
        selection=SelectionConfig(**{"min_score": 0.1, **selection}),
        frequency_groups=np.array(["r", "r"]),
        min_foreground=0.1 if by_foreground else None,
    )
    run = two_predictions(tmp_path)
    _, target = stream_of(run, choice).load(0, RNG)
    assert len(target) == (2 if by_foreground and "min_score" in "".join(selection) else num)
    [image] = labelled_images(committed_shards(run)[0], 2)
    kept = choice.keep_instances(image.instances, image.calibrated_scores)
    assert kept.sum() == len(target), "the same rule for the instances of one image"


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 999))
def test_foreground_by_column_is_that_of_the_restored_vectors(top_k: int, num_classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.full(num_classes + 1, 0.3), size=4).astype(np.float32)
    mask = np.ones((1, 4, 4), bool)
    row = labelled_row("a", "", (4, 4), soft, rng.random(4), np.repeat(mask, 4, axis=0), 1.0, top_k=top_k)
    restored, _ = instances_from_structs(row["instances"], (4, 4), num_classes)
    structs = pa.array(row["instances"], INSTANCE)
    np.testing.assert_allclose(foreground_probs(structs, num_classes), 1 - restored.soft_vectors[:, -1], atol=1e-6)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    stream = stream_of(two_predictions(tmp_path), choice_of(2))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png"):
        stream.load(0, RNG)


def stream_with(run: RunFolder, **changes: Any) -> PoolStream:
    choice = choice_of(2, min_score=0.5)
    table = index_pool(committed_shards(run), choice, threshold=0)
    index = PoolIndex.from_table(table)
    return PoolStream(run, index, choice, PoolTargets(), **{"seed": 0, "max_pixels": SIDE * SIDE, **changes})


def test_a_larger_pool_image_is_not_read(tmp_path: Path) -> None:
    run = two_predictions(tmp_path)
    assert stream_with(run, augment=no_augmentation).load(0, RNG)
    with pytest.raises(InputError, match=r"a\.png: .*too large"):
        stream_with(run, augment=no_augmentation, max_pixels=SIDE * SIDE - 1).load(0, RNG)


def test_from_a_draw_on_images_have_the_weak_view_and_no_object(tmp_path: Path) -> None:
    def brighter(by: float) -> Augment:
        return lambda image, target, rng: (image + by, target)

    stream = stream_with(two_predictions(tmp_path), augment=brighter(2), weak_view=brighter(4), unlabelled_from=2)
    found = [stream.load(draw, RNG) for draw in range(4)]
    assert [round(image[0, 0, 0].item()) for image, _ in found] == [2, 2, 4, 4]
    assert [len(target) for _, target in found] == [1, 1, 0, 0]


def test_a_pool_image_is_turned_as_viewers_show_it(tmp_path: Path) -> None:
    """The labels were made of the image as it is shown: 10 x 8 pixels, stored as 8 x 10."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    masks = np.ones((1, 10, 8), bool)
    run = RunFolder(str(tmp_path / "run"))
    write_shard(run, 0, [labelled_row("a", str(tmp_path / "a.jpg"), (10, 8), [[0.1, 0.6, 0.3]], [0.8], masks, 0.9)])
    image, target = stream_with(run, augment=no_augmentation).load(0, RNG)
    assert image.shape[1:] == target.masks_NHW.shape[1:] == (10, 8)
