"""`check` remarks on settings with which a training can't work well."""

from pathlib import Path

import pytest

from raylabel.config import load_config
from raylabel.run.data import RunData
from raylabel.stages.doubtful_settings import doubtful_settings

BASE = {"teacher.steps": "20", "smoothing.warmup_steps": "0", "student.init": "weights"}


@pytest.mark.parametrize(
    ("settings", "remark"),
    [
        (
            {"teacher.steps": "2000", "teacher.batch_size": "8"},
            "1,333.3 times. 3 to 100 times are usual; 100 take 150 steps",
        ),
        ({"teacher.steps": "1", "teacher.batch_size": "4"}, "0.3 times. 3 to 100 times are usual; 3 take 9 steps"),
        (
            {"teacher.model": "maskrcnn_efficientnet_lite0", "teacher.weights": "imagenet"},
            "the pretrained backbone of imagenet learns at a rate of 0.003",
        ),
        (
            {
                "teacher.model": "maskrcnn_efficientnet_lite0",
                "teacher.weights": "imagenet",
                "teacher.optimizer.backbone_rate": "0.1",
                "smoothing.kind": "similarity",
            },
            "Set smoothing.layer: backbone",
        ),
    ],
)
def test_settings_that_cannot_work_are_remarked(settings: dict[str, str], remark: str, generated: Path) -> None:
    config = load_config(generated / "config.yaml", {**BASE, **settings})
    [found] = doubtful_settings(config, RunData(config).labelled)
    assert remark in found
