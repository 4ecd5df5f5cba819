"""One small generated set, one local Ray cluster per session, and runs prepared up to the labels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prepared import prepared_run
from raylabel.config import Config, load_config
from raylabel.dataset.synthetic.generate import generate
from raylabel.run.folder import RunFolder
from without_ray import put_stages_here

CONFIG = """
data: {labelled: labelled.json, images: images, calibration: val.json, validation: val.json, pool: pool,
       pool_truth: pool_truth.json}
smoothing: {warmup_steps: 2}
teacher: {model: "fakes:FakeSegmenter", steps: 4, batch_size: 4, num_workers: 1}
label: {shard_size: 8, score_threshold: 0.1, num_workers: 1}
selection: {min_score: 0.1}
student: {model: "fakes:FakeSegmenter", steps: 2, labelled_per_batch: 2, unlabelled_per_batch: 2, num_workers: 1}
"""


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A private local cluster. Its GPU is only a number."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False, address="local")
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 120
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of 6 classes, with config.yaml."""
    folder = tmp_path_factory.mktemp("generated")
    generate(folder, num_images=60, num_classes=6, image_size=64)
    (folder / "config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="session")
def finished_run(
    generated: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> tuple[Config, RunFolder, dict[str, Any]]:
    """A finished run, with its config and artifacts. Tests that change it copy it first.

    All stages run on Ray but the first two and the calibration of student and baseline. `tests/slow/test_job_submit.py`
    runs those on Ray as well.
    """
    from raylabel.stages.evaluate import calibrate_models
    from raylabel.stages.run import run_one, run_pipeline

    config, run = load_config(generated / "config.yaml"), RunFolder(str(tmp_path_factory.mktemp("finished") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        run_one("prototypes", config, run)
        run_one("teacher", config, run)
    for stage in ("calibrate", "label", "distill"):
        run_one(stage, config, run)
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        calibrate_models(config, run)
    return config, run, run_pipeline(config, run)


@pytest.fixture(scope="session")
def trained(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of every stage, made in this process. Tests that change it copy it first."""
    from raylabel.stages.run import run_pipeline

    run = RunFolder(str(tmp_path_factory.mktemp("trained") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        run_pipeline(load_config(generated / "config.yaml"), run)
    return run


@pytest.fixture
def config(generated: Path) -> Config:
    return load_config(generated / "config.yaml")


Prepare = Callable[[Config, Path], RunFolder]


@pytest.fixture
def prepare() -> Prepare:
    """Return a function that makes a run ready to label, with an untrained teacher and a neutral corrector."""
    return prepared_run
