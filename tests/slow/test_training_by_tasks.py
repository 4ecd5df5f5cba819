"""A whole training whose images Ray Data decodes ends with the weights of one that decodes them itself."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from prepared import prepared_run

from raylabel.config import config_dict, load_config
from raylabel.dataset.synthetic import generate
from raylabel.models.saved import load_segmenter
from raylabel.pipeline.ddp import Training, train_on_ray
from raylabel.pipeline.training_jobs import describe_model, fold_teacher_job

pytestmark = pytest.mark.slow

CONFIG = """
data: {labelled: labelled.json, images: images, calibration: val.json, validation: val.json, pool: pool}
smoothing: {warmup_steps: 0}
teacher: {steps: 6, batch_size: 4, num_workers: 1, checkpoint_every: 3}
calibration: {folds: 2}
"""


def test_tasks_and_threads_end_with_the_same_weights(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    generate(tmp_path, num_images=60, num_classes=6, image_size=64)
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "config.yaml")
    run = prepared_run(config, tmp_path / "run")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, address="local")
    try:
        for decoding in ("threads", "tasks"):
            settings = replace(config.teacher, decoding=decoding)
            training = Training(
                build=partial(fold_teacher_job, config_dict(config), run.uri, 0),
                folder=decoding,
                num_steps=config.teacher.steps,
                identity=[decoding],
                description=describe_model(settings, decoding),
            )
            train_on_ray([training], run=run, folder=decoding, settings=settings, label=decoding)
    finally:
        ray.shutdown()
    by_threads, by_tasks = (load_segmenter(run.path(one))[0].state_dict() for one in ("threads", "tasks"))
    for name, tensor in by_threads.items():
        assert torch.equal(tensor, by_tasks[name]), name
