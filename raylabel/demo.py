"""The demo: all stages on the generated long-tail set, in few steps."""

from pathlib import Path
from typing import Any

from raylabel.config import (
    CalibrationConfig,
    Config,
    DataConfig,
    LabelConfig,
    OptimizerConfig,
    SmoothingConfig,
    StudentConfig,
    TeacherConfig,
    TeacherOptimizerConfig,
)
from raylabel.dataset.synthetic.generate import generate
from raylabel.progress import Progress
from raylabel.run.folder import RunFolder
from raylabel.stages.run import run_pipeline

SIZES = {"labelled": 192, "calibration": 48, "val": 240, "pool": 1120}
"""Images of each split of the demo's set."""

IMAGE_SIZE = 64
"""Side of the demo's images in pixels. It is small, so that the teacher is trained long in little time."""


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
    return Config(
        data=data,
        # Nothing here needs prototypes of trained features, and a warm-up would start Ray Train once more.
        smoothing=SmoothingConfig(warmup_steps=0),
        teacher=TeacherConfig(steps=1200, num_workers=1, optimizer=TeacherOptimizerConfig(precision="bf16")),
        calibration=CalibrationConfig(corrector="contextual"),
        label=LabelConfig(score_threshold=0.02, max_per_image=50),
        student=StudentConfig(steps=500, num_workers=1, optimizer=OptimizerConfig(precision="bf16")),
        seed=seed,
    )


def run_demo(out: Path, seed: int) -> dict[str, Any]:
    """Generate the set into `out/data`, run every stage, and return the metrics of the evaluation."""
    data_folder = (out / "data").absolute()
    with Progress("generate", sum(SIZES.values())) as progress:
        generate(data_folder, sizes=SIZES, image_size=IMAGE_SIZE, seed=seed, progress=progress)
    artifacts = run_pipeline(demo_config(data_folder, seed), RunFolder(str(out.absolute())))
    return artifacts["evaluate"]["metrics"]
