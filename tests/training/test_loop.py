"""The training loop: resuming, ranks, the sum of the loss, the average, and failures."""

import math
from collections.abc import Iterator
from typing import Any

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
from raylabel.training.job import TrainContext, TrainJob
from raylabel.training.loop import BatchLosses, train
from toy_training import NUM_CLASSES, ToyExamples, a_job, assert_same_weights, new_segmenter


def test_a_job_that_stops_early_is_the_first_part_of_the_schedule() -> None:
    steps: list[int] = []
    train(new_segmenter(), a_job(stop_step=2), TrainContext(report=lambda step, *_: steps.append(step)))
    train(new_segmenter(), a_job(start_step=2), TrainContext(report=lambda step, *_: steps.append(step)))
    assert steps == [2, 6]


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


def test_a_job_ends_with_its_schedule() -> None:
    steps: list[int] = []
    train(CountedLosses(), one_part(steps=2, stop_step=9), TrainContext(report=lambda step, *_: steps.append(step)))
    assert steps == [2]


def one_part(**changes: object) -> TrainJob:
    """Make a job without a pool, for a model whose losses are known."""
    return a_job(labelled_per_batch=1, unlabelled_per_batch=0, pool=None, **changes)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("max_norm", "learnt"), [(5.0, 5.0), (0.25, 0.25), (None, 1111.0), (2000.0, 1111.0)])
def test_gradients_are_clipped_by_their_true_norm(precision: Any, max_norm: float | None, learnt: float) -> None:
    """The loss is 1111 times a parameter. AdamW's first moment is a tenth of the gradient that it was given.

    fp16 scales the loss by up to 65536, and the norm must not be taken in that scale.
    """
    saved: list[Snapshot] = []
    reported: list[dict[str, float]] = []
    optimizer = OptimizerConfig(max_gradient_norm=max_norm, precision=precision)
    job = one_part(steps=1, settings=TrainingConfig(optimizer=optimizer))
    context = TrainContext(save=saved.append, report=lambda step, values: reported.append(values))
    train(CountedLosses(), job, context)
    assert saved[-1].tensors["optimizer.exp_avg.scale"].item() == pytest.approx(learnt / 10, rel=1e-3)
    assert reported[-1]["gradient_norm"] == pytest.approx(1111, rel=1e-3)


@pytest.mark.parametrize("start_step", [0, 5])
def test_the_average_of_a_job_forgets_where_the_job_began(start_step: int) -> None:
    """The ramp of the decay begins with the job: 1/10, then 2/11. So the teacher's average forgets the embedder."""
    saved: list[Snapshot] = []
    job = one_part(start_step=start_step, steps=start_step + 2, settings=TrainingConfig(checkpoint_every=1))
    trained = train(CountedLosses(), job, TrainContext(save=saved.append))
    first, second = (one.tensors["model.scale"].item() for one in saved)
    assert first != pytest.approx(1.0, abs=1e-5)
    average = 0.1 * 1.0 + 0.9 * first
    assert saved[0].tensors["average.scale"].item() == pytest.approx(average, abs=1e-6)
    assert trained.scale.item() == pytest.approx(2 / 11 * average + 9 / 11 * second, abs=1e-6)


def test_no_average_takes_the_last_weights() -> None:
    saved: list[Snapshot] = []
    job = one_part(steps=3, settings=TrainingConfig(optimizer=OptimizerConfig(ema_decay=0.0)))
    trained = train(CountedLosses(), job, TrainContext(save=saved.append))
    assert trained.scale.item() == saved[-1].tensors["model.scale"].item()


class Drawing(CountedLosses):
    """A model that draws a number in each pass, as models draw regions."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def losses(self, *args: Any, **keywords: Any) -> dict:
        self.drawn.append(torch.rand(()).item())
        return super().losses(*args, **keywords)


def test_every_part_of_every_step_draws_other_numbers_and_the_same_again() -> None:
    def drawn(seed: int) -> list[float]:
        segmenter = Drawing()
        job = a_job(labelled_per_batch=3, unlabelled_per_batch=0, pool=None, steps=3, seed=seed)
        train(segmenter, job, TrainContext(num_parts=3))
        return segmenter.drawn

    assert len(drawn(5)) == len(set(drawn(5))) == 9
    assert drawn(5) == drawn(5)
    assert not set(drawn(5)) & set(drawn(6))


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, [3, 6]), ({"checkpoint_every": 2}, [2, 4, 6]), ({"checkpoint_every": 4}, [4, 6])]
)
def test_checkpoints_follow_every_so_many_steps_and_the_last(changes: dict[str, int], steps: list[int]) -> None:
    saved: list[Snapshot] = []
    settings = TrainingConfig(**{"checkpoint_every": 3, **changes})
    train(CountedLosses(), one_part(settings=settings), TrainContext(save=saved.append))
    assert [snapshot.step for snapshot in saved] == steps


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


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_evaluates_and_saves(rank: int) -> None:
    """Every rank reports at the same steps."""
    evaluated: list[int] = []
    saved: list[Snapshot] = []
    reported: list[int] = []

    def evaluate(segmenter: Segmenter) -> dict[str, float]:
        evaluated.append(1)
        return {}

    job = one_part(settings=TrainingConfig(evaluate_every=2, checkpoint_every=3), evaluate=evaluate)
    context = TrainContext(
        rank=rank, world_size=2, num_parts=2, save=saved.append, report=lambda step, values: reported.append(step)
    )
    train(CountedLosses(), job, context)
    assert reported == [2, 4, 6]
    assert len(evaluated) == (3 if rank == 0 else 0)
    assert [one.step for one in saved] == ([3, 6] if rank == 0 else [])


def test_each_step_learns_from_its_own_gradient_and_reports_its_loss() -> None:
    """The loss is 1111 times a parameter near 1, and each of two parts has its share of it."""
    saved: list[Snapshot] = []
    reported: list[dict[str, float]] = []
    optimizer = OptimizerConfig(max_gradient_norm=None, learning_rate=1e-9)
    settings = TrainingConfig(optimizer=optimizer, checkpoint_every=1)
    job = one_part(steps=2, settings=settings)
    context = TrainContext(num_parts=2, save=saved.append, report=lambda step, values: reported.append(values))
    train(CountedLosses(), job, context)
    # AdamW's first moment of a constant gradient g is 0.1 g, then 0.19 g.
    assert [one.tensors["optimizer.exp_avg.scale"].item() for one in saved] == pytest.approx([111.1, 0.19 * 1111])
    assert reported[-1]["loss"] == pytest.approx(1111)
    assert reported[-1]["gradient_norm"] == pytest.approx(1111)
    assert reported[-1]["labelled_masks"] == pytest.approx(1000)
