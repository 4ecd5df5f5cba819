"""The training loop: resuming, ranks, the sum of the loss, the schedule, and failures."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fakes import FakeSegmenter
from raylabel.config import OptimizerConfig, PoolLosses, TrainingConfig
from raylabel.errors import TrainingError
from raylabel.models.segmenter import Segmenter, Target
from raylabel.training.batch_source import BatchSource
from raylabel.training.checkpoints import Snapshot
from raylabel.training.job import TrainContext
from raylabel.training.loop import BatchLosses, train
from toy_training import NUM_CLASSES, ToyExamples, a_job, assert_same_weights, new_segmenter


def test_a_job_that_stops_early_is_the_first_part_of_the_schedule() -> None:
    steps: list[int] = []
    train(new_segmenter(), a_job(stop_step=2), TrainContext(report=lambda step, *_: steps.append(step)))
    train(new_segmenter(), a_job(start_step=2), TrainContext(report=lambda step, *_: steps.append(step)))
    assert steps == [2, 6]


@pytest.mark.parametrize("num_parts", [2, 3, 5])
def test_the_parts_make_up_the_batch(num_parts: int) -> None:
    """Some sizes do not divide, and some parts are empty. Augmentation depends on the place, so pixels are equal."""
    job = a_job()
    for step in (0, 4):
        whole = BatchSource(job, 1).batch(step, 0)
        parts = [BatchSource(job, num_parts).batch(step, part) for part in range(num_parts)]
        for name in ("labelled_images", "pool_images"):
            together = [image for part in parts for image in getattr(part, name)]
            assert len(together) == len(getattr(whole, name))
            for image, expected in zip(together, getattr(whole, name), strict=True):
                assert torch.equal(image, expected)
            sizes = [len(getattr(part, name)) for part in parts]
            assert max(sizes) - min(sizes) <= 1


def test_batches_change_from_step_to_step_and_come_back() -> None:
    source = BatchSource(a_job(), 1)
    first, second, again = (source.batch(step, 0).labelled_images[0] for step in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


class CountedLosses(torch.nn.Module):
    """A model whose losses are known numbers. It returns only the requested terms."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = NUM_CLASSES
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.unused = torch.nn.Parameter(torch.ones(3, 3))

    def losses(self, images: list[Tensor], targets: list[Target], *, terms: frozenset[str] = frozenset()) -> dict:
        values = {"classes": 1.0, "objectness": 10.0, "boxes": 100.0, "masks": 1000.0}
        wanted = terms or values.keys()
        return {name: self.scale * value for name, value in values.items() if name in wanted}


def test_the_loss_by_hand() -> None:
    # labelled 1 + 10 + 100 + 1000; pool 0.5 * (2 * 1 + 0.25 * 10) = 2.25
    job = a_job(unlabelled_weight=0.5, pool_losses=PoolLosses(classes=2.0, objectness=0.25, boxes=0.0, masks=0.0))
    module = BatchLosses(CountedLosses(), job, world_size=1)
    losses = module(BatchSource(job, 1).batch(0, 0))
    assert losses["loss"].item() == pytest.approx(1111 + 2.25)
    assert losses["pool_objectness"].item() == 10
    assert "pool_boxes" not in losses


def test_the_mean_over_ranks_is_the_loss_of_the_batch() -> None:
    """DDP averages gradients. So ranks with more images weigh more, and a rank without images adds nothing."""
    job = a_job(labelled_per_batch=3, unlabelled_per_batch=2)
    whole = BatchLosses(CountedLosses(), job, 1)(BatchSource(job, 1).batch(0, 0))["loss"]
    parts = [BatchLosses(CountedLosses(), job, 4)(BatchSource(job, 4).batch(0, rank))["loss"] for rank in range(4)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item())


def test_weight_decay_acts_on_what_the_loss_does_not_reach() -> None:
    """As under DDP, where ranks exchange the gradient of every parameter."""
    segmenter = CountedLosses()
    train(segmenter, a_job(steps=1, labelled_per_batch=1, unlabelled_per_batch=0, pool=None), TrainContext(num_parts=2))
    assert (segmenter.unused < 1).all()


def test_images_without_objects_can_be_trained_on() -> None:
    job = a_job(labelled=ToyExamples(with_objects=False), pool=None, unlabelled_per_batch=0, steps=2)
    metrics: list[dict[str, float]] = []
    segmenter = train(new_segmenter(), job, TrainContext(report=lambda step, values: metrics.append(values)))
    assert all(math.isfinite(value) for value in metrics[-1].values())
    assert all(bool(torch.isfinite(value).all()) for value in segmenter.state_dict().values())


def test_a_report_tells_the_pace_and_the_share_of_waiting() -> None:
    """The model takes almost no time, and each image takes half a second."""
    reported: list[dict[str, float]] = []
    labelled = ToyExamples(pause=0.5)
    job = a_job(labelled=labelled, labelled_per_batch=1, pool=None, unlabelled_per_batch=0, steps=3)
    context = TrainContext(report=lambda step, values: reported.append(values))
    train(FakeSegmenter(num_classes=NUM_CLASSES), job, context)
    assert reported[-1]["data_wait"] > 0.5
    assert 0 < reported[-1]["images_per_second"] <= 3  # three images, but the first may be read before the clock starts


@pytest.fixture
def one_process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("with_objects", [True, False])
def test_distributed_training_is_the_same(with_objects: bool) -> None:
    """Also without objects, where heads do not run although DDP waits for their gradients."""
    job = a_job(labelled=ToyExamples(with_objects=with_objects), pool=ToyExamples(with_objects=False), steps=3)
    alone = train(new_segmenter(), job, TrainContext())
    distributed = train(new_segmenter(), job, TrainContext(wrap=DistributedDataParallel))
    assert_same_weights(alone, distributed)


def test_a_loss_that_is_not_finite_stops_with_its_step_and_images() -> None:
    segmenter = new_segmenter()
    with torch.no_grad():
        dict(segmenter.named_parameters())["roi_heads.box_predictor.class_logits.bias"].fill_(math.nan)
    job = a_job(labelled=ToyExamples(name="cat"), pool=ToyExamples(num=5, name="street"))
    with pytest.raises(TrainingError, match=r"loss is not finite at step 1 .*labelled_classes nan") as stopped:
        train(segmenter, job, TrainContext(num_parts=2))
    # The first of two parts has two of three labelled and one of two pool images. Pixel 0 holds the index.
    first = BatchSource(job, 2).batch(0, 0)
    names = [f"cat-{round(image[0, 0, 0].item() * 100)}" for image in first.labelled_images]
    names += [f"street-{round(image[0, 0, 0].item() * 100)}" for image in first.pool_images]
    assert len(names) == 3
    assert f"images {', '.join(names)}." in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_a_gradient_that_is_not_finite_stops_before_it_is_learnt_from() -> None:
    class Exploding(CountedLosses):
        def losses(self, *args: object, **keywords: object) -> dict:
            values = super().losses(*args, **keywords)
            return {name: value + torch.sqrt(self.scale - 1) for name, value in values.items()}  # slope 1 / 0

    segmenter = Exploding()
    segmenter.register_buffer("one", torch.ones(()))
    with pytest.raises(TrainingError, match=r"gradient is not finite at step 1 .*; images toy-\d, "):
        train(segmenter, a_job(), TrainContext())
    assert segmenter.scale.item() == 1


def test_an_unreadable_image_reaches_the_caller() -> None:
    class Unreadable(ToyExamples):
        def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
            raise ValueError("cat.jpg: truncated")

    with pytest.raises(ValueError, match=r"cat\.jpg"):
        train(new_segmenter(), a_job(labelled=Unreadable()), TrainContext())


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        (OptimizerConfig(precision="bf16"), 0.1),
        (OptimizerConfig(precision="fp16"), 0.1),
        (OptimizerConfig(channels_last=True), 1e-3),
    ],
)
def test_other_formats_and_layouts_train_and_go_on_alike(settings: OptimizerConfig, tolerance: float) -> None:
    """The loss is about that of plain float32. After a restore the weights are equal bit for bit."""
    losses: dict[str, float] = {}
    saved: dict[int, Snapshot] = {}

    def trained(name: str, optimizer: OptimizerConfig, restore: Snapshot | None = None) -> Segmenter:
        context = TrainContext(
            report=lambda step, values: losses.update({name: values["loss"]}),
            save=lambda snapshot: saved.update({snapshot.step: snapshot}),
            restore=restore,
        )
        training = TrainingConfig(checkpoint_every=1, optimizer=optimizer)
        job = a_job(settings=training, steps=2, labelled_per_batch=1, pool=None, unlabelled_per_batch=0)
        return train(new_segmenter(), job, context)

    trained("plain", OptimizerConfig())
    undisturbed = trained("other", settings)
    assert losses["other"] == pytest.approx(losses["plain"], rel=tolerance)
    assert_same_weights(trained("restored", settings, saved[1]), undisturbed)


def test_the_average_is_evaluated_on_rank_0_and_training_goes_on_as_without() -> None:
    seen: list[dict[str, Tensor]] = []
    reported: dict[int, dict[str, float]] = {}

    def evaluate(segmenter: Segmenter) -> dict[str, float]:
        assert not segmenter.training
        seen.append({name: value.clone() for name, value in segmenter.state_dict().items()})
        return {"AP": len(seen) / 10}

    job = a_job(settings=TrainingConfig(checkpoint_every=100, evaluate_every=2), steps=4, evaluate=evaluate)
    evaluated = train(new_segmenter(), job, TrainContext(report=lambda step, values: reported.update({step: values})))
    assert {step: values["ema_AP"] for step, values in reported.items()} == {2: 0.1, 4: 0.2}
    assert all(torch.equal(value, seen[1][name]) for name, value in evaluated.state_dict().items())
    plain = train(new_segmenter(), a_job(settings=TrainingConfig(checkpoint_every=100), steps=4), TrainContext())
    assert_same_weights(evaluated, plain)
