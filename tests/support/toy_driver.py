"""A driver process of the toy training on Ray Train: python -m toy_driver RUN SETTINGS_AS_JSON PAUSE."""

import json
import os
import sys
from functools import partial

from raylabel.cluster import ddp
from raylabel.cluster.ddp import Training, train_on_ray
from raylabel.config import TrainingConfig
from raylabel.errors import TrainingError
from raylabel.run.folder import RunFolder
from raylabel.training.job import SegmenterBuilder, TrainJob
from toy_training import ToyExamples, a_job, new_segmenter

STEPS = 40


def toy_job(settings: TrainingConfig, pause: float = 0.0) -> tuple[SegmenterBuilder, TrainJob]:
    """Return the builder of the model and its job. The pause per image changes only the time."""
    labelled, pool = ToyExamples(pause=pause), ToyExamples(num=5, pause=pause)
    return new_segmenter, a_job(settings=settings, steps=STEPS, labelled=labelled, pool=pool)


def main(run_uri: str, settings_json: str, pause: str) -> None:
    settings = TrainingConfig(**json.loads(settings_json))
    training = Training(
        build=partial(toy_job, settings, float(pause)),
        folder="teacher",
        num_steps=STEPS,
        identity="toy",
        description={"model": "tiny_maskrcnn"},
    )
    train_on_ray([training], run=RunFolder(run_uri), folder="teacher", settings=settings, label="toy")


if __name__ == "__main__":
    ddp.WAITING_SECONDS = float(os.environ.get("WAITING_SECONDS", ddp.WAITING_SECONDS))
    try:
        main(*sys.argv[1:])
    except TrainingError as error:
        sys.exit(f"toy: {error}")
