"""The sample of the pool on which models are compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prepared import prepared_run
from raylabel.config import Config
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.pool.image import PoolImage
from raylabel.run.data import RunData
from raylabel.run.models import TEACHER
from raylabel.stages import pool_sample
from raylabel.stages.pool_sample import sample_pool, score_images


def test_the_sample_depends_on_ids_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_sample, "NUM_IMAGES", 10)
    images = [PoolImage(image_id=f"{number}.png", uri=f"/pool/{number}.png") for number in range(100)]
    chosen = sample_pool(images, seed=0)
    assert len(set(chosen)) == 10
    assert sample_pool(images[::-1], seed=0) == chosen
    assert sample_pool(images, seed=1) != chosen
    without_some = [image for image in images if image.source in chosen or image.uri.endswith(("1.png", "2.png"))]
    assert sample_pool(without_some, seed=0) == chosen, "images that are not chosen do not count"


def test_images_that_the_listing_refused_are_left_out() -> None:
    images = [
        PoolImage(image_id="a.png", uri="/pool/a.png"),
        PoolImage(image_id="../b.png", uri="/b.png", refusal="outside of the pool"),
    ]
    assert sample_pool(images, seed=0) == [ImageSource("/pool/a.png")]


@pytest.mark.usefixtures("without_ray")
def test_an_image_that_cannot_be_read_has_no_score(config: Config, tmp_path: Path) -> None:
    config = replace(config, label=replace(config.label, max_per_image=3, score_threshold=0.01))
    run = prepared_run(config, tmp_path / "run")
    images = [image.source for image in RunData(config).list_pool()][:4]
    [sound] = score_images(config, run, [(run.path(TEACHER), images)])
    (tmp_path / "damaged.jpg").write_bytes(b"no image")
    damaged = [*images[:2], ImageSource(str(tmp_path / "damaged.jpg")), *images[2:]]
    with_damaged, again = score_images(config, run, [(run.path(TEACHER), damaged), (run.path(TEACHER), images)])
    assert len(sound) > 0
    assert [len(one) for one in score_images(config, run, [(run.path(TEACHER), [])])] == [0]
    np.testing.assert_array_equal(np.sort(with_damaged.raw_scores), np.sort(sound.raw_scores))
    np.testing.assert_array_equal(np.sort(again.raw_scores), np.sort(sound.raw_scores))
