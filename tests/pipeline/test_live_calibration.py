"""The calibration actor: found by its name, and each shard counted once, whatever is retried."""

import numpy as np
import pytest
import ray

from raylabel.calibration import Detections, ReliabilityBins
from raylabel.pipeline.live_calibration import NAMESPACE, actor_name, start_calibration_actor
from raylabel.storage import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def bins_of(seed: int) -> ReliabilityBins:
    rng = np.random.default_rng(seed)
    detections = Detections(
        num_classes=3,
        class_indices=rng.integers(0, 3, 20).astype(np.int32),
        raw_scores=rng.random(20),
        image_indices=np.arange(20),
        outcomes=rng.integers(0, 3, 20).astype(np.int8),
        weights=np.ones(20),
    )
    return ReliabilityBins.from_detections(detections, 5)


def test_retried_shards_count_once_and_a_new_driver_starts_anew() -> None:
    run, first, second = RunFolder("nowhere"), bins_of(1), bins_of(2)
    started = start_calibration_actor(run, "label", num_classes=3, num_bins=5)
    by_name = ray.get_actor(actor_name(run, "label"), namespace=NAMESPACE)
    counted = [
        ray.get(by_name.add.remote(shard, bins.to_table())) for shard, bins in ((0, first), (7, second), (0, first))
    ]
    assert counted == [True, True, False]
    num_shards, table = ray.get(started.view.remote())
    assert num_shards == 2
    assert table.equals((first + second).to_table())
    again = start_calibration_actor(run, "label", num_classes=3, num_bins=5)
    num_shards, table = ray.get(again.view.remote())
    assert (num_shards, table.num_rows) == (0, 0)
