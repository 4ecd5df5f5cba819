"""The demo: all stages on the generated long-tail set, in few steps."""

from pathlib import Path
from typing import Any

from raylabel.config import Config, DataConfig, StudentConfig, TeacherConfig
from raylabel.dataset.synthetic.generate import generate
from raylabel.progress import Progress
from raylabel.run.folder import RunFolder
from raylabel.stages.run import run_pipeline

NUM_IMAGES = 1200


def demo_config(data_folder: Path, seed: int) -> Config:
    """Return the demo's config: few steps on a generated set. configs/demo.yaml is the same for `raylabel run`."""
    data = DataConfig(
        labelled=str(data_folder / "labelled.json"),
        images=str(data_folder / "images"),
        calibration=str(data_folder / "calibration.json"),
        validation=str(data_folder / "val.json"),
        pool=str(data_folder / "pool"),
        pool_truth=str(data_folder / "pool_truth.json"),
    )
    return Config(data=data, teacher=TeacherConfig(steps=400), student=StudentConfig(steps=120), seed=seed)


def run_demo(out: Path, seed: int) -> dict[str, Any]:
    """Generate the set into `out/data`, run every stage, and return the metrics of the evaluation."""
    data_folder = (out / "data").absolute()
    with Progress("generate", NUM_IMAGES) as progress:
        generate(data_folder, num_images=NUM_IMAGES, seed=seed, progress=progress)
    artifacts = run_pipeline(demo_config(data_folder, seed), RunFolder(str(out.absolute())))
    return artifacts["evaluate"]["metrics"]
