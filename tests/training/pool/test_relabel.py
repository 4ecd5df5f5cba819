"""Relabelling by the moving average: its first step, its view, and exact resumption."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fakes import FakeSegmenter, shapes_of
from pool_world import pool_run
from raylabel.calibration import FitContext, fit_corrector
from raylabel.calibration.detections import Detections
from raylabel.config import OptimizerConfig, PoolLosses, SelectionConfig, TrainingConfig
from raylabel.models.build import build_segmenter
from raylabel.models.segmenter import Segmenter, Target
from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.run.labels.shards import committed_shards
from raylabel.training.augment.views import no_augmentation
from raylabel.training.batch_source import BatchSource
from raylabel.training.batches import Batch
from raylabel.training.checkpoints import Snapshot
from raylabel.training.ema import MovingAverage
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.loop import train
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.index import PoolIndex, index_pool
from raylabel.training.pool.relabel import Relabeller, Relabelling
from raylabel.training.pool.stream import PoolStream
from raylabel.training.pool.targets import PoolTargets

NUM_CLASSES, BURN_IN, PER_BATCH = 2, 2, 3
CHOICE = PoolChoice(selection=SelectionConfig(min_score=0.02), frequency_groups=np.array(["f", "f"]))


def relabelling() -> Relabelling:
    context = FitContext(num_bins=5, frequency_groups=np.array(["f", "f"]), similarity=None, seed=0)
    return Relabelling(
        from_step=BURN_IN,
        corrector=fit_corrector("none", Detections.empty(NUM_CLASSES), context=context),
        choice=CHOICE,
        targets=PoolTargets(),
        score_threshold=0.01,
        max_per_image=20,
        augment=no_augmentation,
    )


class OneImage:
    num_classes = NUM_CLASSES

    def __len__(self) -> int:
        return 1

    def image_classes(self) -> list[np.ndarray]:
        return [np.zeros(0, np.int32)]

    def image_id(self, index: int) -> str:
        return str(index)

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, 32, 32, generator=generator), Target.empty((32, 32), NUM_CLASSES)


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    """A burn-in of 2 steps with 3 pool images each. The labels have one object of class 0 per image."""
    run = pool_run(tmp_path, [[[0]] * 4, [[0]] * 3], num_classes=NUM_CLASSES)
    index = PoolIndex.from_table(index_pool(committed_shards(run), CHOICE, threshold=0))
    stream = PoolStream(
        run,
        index,
        CHOICE,
        PoolTargets(),
        seed=0,
        max_pixels=10_000,
        augment=no_augmentation,
        unlabelled_from=BURN_IN * PER_BATCH,
    )
    return TrainJob(
        settings=TrainingConfig(checkpoint_every=1, optimizer=OptimizerConfig(ema_decay=0.5, learning_rate=0.01)),
        steps=5,
        labelled=OneImage(),
        labelled_per_batch=1,
        pool=stream,
        unlabelled_per_batch=PER_BATCH,
        pool_losses=PoolLosses(boxes=1.0, masks=1.0),
        relabel=partial(Relabeller, relabelling()),
    )


def test_committed_labels_guide_and_then_the_average_says_what_is_there(job: TrainJob) -> None:
    torch.manual_seed(0)
    segmenter = FakeSegmenter(num_classes=NUM_CLASSES)
    relabeller = Relabeller(relabelling(), segmenter, MovingAverage(segmenter, 0.5))
    source = BatchSource(job, 1)
    guided = relabeller(source.batch(BURN_IN - 1, 0), BURN_IN - 1)
    assert [target.class_probs.argmax().item() for target in guided.pool_targets] == [0] * PER_BATCH
    weak = source.batch(BURN_IN, 0)
    assert [len(target) for target in weak.pool_targets] == [0] * PER_BATCH
    nums = []
    for image, target in zip(weak.pool_images, relabeller(weak, BURN_IN).pool_targets, strict=True):
        masks, soft_vectors = shapes_of(image, NUM_CLASSES)
        order = np.argsort(-soft_vectors[:, :-1].max(axis=1, initial=0), kind="stable")
        rows = order[soft_vectors[order, :-1].max(axis=1, initial=0) >= 0.02]
        np.testing.assert_array_equal(target.masks_NHW.numpy().astype(bool), masks[rows])
        np.testing.assert_allclose(target.class_probs.numpy(), soft_vectors[rows], atol=1e-5)
        nums.append(len(target))
    assert sum(nums) > 0


def test_the_students_view_is_made_of_image_and_targets_together(job: TrainJob) -> None:
    def shifted(image: Tensor, target: Target, rng: np.random.Generator) -> tuple[Tensor, Target]:
        by = int(rng.integers(1, 5))
        return image + by, replace(target, masks_NHW=target.masks_NHW.roll(by, dims=2))

    segmenter = FakeSegmenter(num_classes=NUM_CLASSES)
    plain, moved = (
        Relabeller(replace(relabelling(), augment=augment), segmenter, MovingAverage(segmenter, 0.5))(
            BatchSource(job, 1).batch(3, 0), 3
        )
        for augment in (no_augmentation, shifted)
    )
    shifts = set()
    for before, after, image, expected in zip(
        plain.pool_targets, moved.pool_targets, moved.pool_images, plain.pool_images, strict=True
    ):
        by = round(float((image - expected)[0, 0, 0]))
        assert torch.equal(after.masks_NHW, before.masks_NHW.roll(by, dims=2))
        shifts.add(by)
    assert shifts <= {1, 2, 3, 4}
    assert sum(len(target) for target in plain.pool_targets) > 0


def test_location_counts_by_agreement_where_labels_say_so(job: TrainJob) -> None:
    segmenter = FakeSegmenter(num_classes=NUM_CLASSES)
    how = replace(relabelling(), mask_quality="agreement", targets=PoolTargets(weight_by_quality=True))
    batch = BatchSource(job, 1).batch(BURN_IN, 0)
    found = Relabeller(how, segmenter, MovingAverage(segmenter, 0.5))(batch, BURN_IN)
    weights = torch.cat([target.location_weights for target in found.pool_targets])
    assert ((weights >= 0) & (weights <= 1)).all()
    assert weights.min() < 1


def test_what_is_said_follows_the_average(job: TrainJob) -> None:
    """A model that records its weights shows that the relabeller uses the current average, not the model."""

    class Constant(FakeSegmenter):
        def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list:
            seen.append(self.layer.bias[0].item())
            return super().predict(images, score_threshold=score_threshold, max_per_image=max_per_image)

    seen: list[float] = []
    segmenter = Constant(num_classes=NUM_CLASSES)
    with torch.no_grad():
        segmenter.layer.bias.fill_(1.0)
    average = MovingAverage(segmenter, 0.9)
    relabeller, batch = Relabeller(relabelling(), segmenter, average), BatchSource(job, 1).batch(BURN_IN, 0)
    relabeller(batch, BURN_IN)
    with torch.no_grad():
        segmenter.layer.bias.fill_(2.0)
    average.update(segmenter, 10**6)
    relabeller(batch, BURN_IN)
    assert seen == pytest.approx([1.0, 1.1])


def new_segmenter(seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return build_segmenter("tiny_maskrcnn", num_classes=NUM_CLASSES)


@pytest.mark.parametrize("restored_at", [1, 3])
def test_a_restored_training_relabels_as_an_undisturbed_one(job: TrainJob, restored_at: int) -> None:
    saved: dict[int, Snapshot] = {}
    whole = train(new_segmenter(), job, TrainContext(save=lambda one: saved.update({one.step: one})))
    resumed = train(new_segmenter(9), job, TrainContext(restore=saved[restored_at]))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), f"{name} differs"


def test_distributed_training_relabels_alike(job: TrainJob) -> None:
    alone = train(new_segmenter(), job, TrainContext())
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        distributed = train(new_segmenter(), job, TrainContext(wrap=DistributedDataParallel))
    finally:
        torch.distributed.destroy_process_group()
    for name, value in alone.state_dict().items():
        assert torch.equal(value, distributed.state_dict()[name]), f"{name} differs"


def test_relabelling_changes_what_is_learnt(job: TrainJob) -> None:
    def learnt(relabelled: bool) -> list[Batch]:
        batches: list[Batch] = []
        segmenter = new_segmenter()
        relabeller = Relabeller(relabelling(), segmenter, MovingAverage(segmenter, 0.5))
        for step in range(4):
            batch = BatchSource(job, 1).batch(step, 0)
            batches.append(relabeller(batch, step) if relabelled else batch)
        return batches

    with_average, without = learnt(True), learnt(False)
    objects = [[sum(map(len, batch.pool_targets)) for batch in batches] for batches in (with_average, without)]
    assert objects[0][:BURN_IN] == objects[1][:BURN_IN] == [PER_BATCH] * BURN_IN
    assert objects[1][BURN_IN:] == [0, 0]
    assert all(num > 0 for num in objects[0][BURN_IN:]), "an untrained model sees something everywhere"


class Halving:
    """A corrector that halves the raw scores, and records the context that it is given."""

    def __init__(self) -> None:
        self.contexts: list[np.ndarray | None] = []

    def __call__(self, detections: Detections) -> np.ndarray:
        self.contexts.append(detections.context)
        return detections.raw_scores / 2


def test_new_labels_are_corrected_from_scores_and_context(job: TrainJob) -> None:
    segmenter, corrector = FakeSegmenter(num_classes=NUM_CLASSES), Halving()
    how = replace(relabelling(), corrector=corrector, choice=replace(CHOICE, selection=SelectionConfig(min_score=0)))
    weak = BatchSource(job, 1).batch(BURN_IN, 0)
    relabelled = Relabeller(how, segmenter, MovingAverage(segmenter, 0.5))(weak, BURN_IN)
    num = 0
    for image, target, context in zip(weak.pool_images, relabelled.pool_targets, corrector.contexts, strict=True):
        _, soft_vectors = shapes_of(image, NUM_CLASSES)
        raw_scores = np.sort(soft_vectors[:, :-1].max(axis=1, initial=0))[::-1]
        probs = target.class_probs.numpy()
        classes = soft_vectors[np.argsort(-soft_vectors[:, :-1].max(axis=1, initial=0)), :-1].argmax(axis=1)
        np.testing.assert_allclose(probs[np.arange(len(probs)), classes], raw_scores / 2, atol=1e-5)
        assert context is not None
        assert context[:, CONTEXT_FEATURES.index("rank")].tolist() == list(range(len(target)))
        num += len(target)
    assert num > 0


@pytest.mark.parametrize(("limits", "most"), [({"max_per_image": 1}, 1), ({"score_threshold": 1.0}, 0)])
def test_new_labels_keep_the_limits_of_prediction(job: TrainJob, limits: dict[str, float], most: int) -> None:
    segmenter = FakeSegmenter(num_classes=NUM_CLASSES)
    weak = BatchSource(job, 1).batch(BURN_IN, 0)
    found = Relabeller(replace(relabelling(), **limits), segmenter, MovingAverage(segmenter, 0.5))(weak, BURN_IN)
    assert max(map(len, found.pool_targets)) == most
