"""The demo: the main job from end to end on the generated long-tail set, with the default settings."""

from pathlib import Path
from typing import Any

from raylabel.config import Config, DataConfig
from raylabel.dataset.synthetic import generate
from raylabel.pipeline.run import run_pipeline
from raylabel.storage import RunFolder


def demo_config(data_folder: Path, seed: int) -> Config:
    """Default settings on a generated set; configs/demo.yaml says the same for the command line."""
    data = DataConfig(
        labelled=str(data_folder / "labelled.json"),
        images=str(data_folder),
        calibration=str(data_folder / "calibration.json"),
        validation=str(data_folder / "val.json"),
        pool=str(data_folder / "pool"),
        pool_truth=str(data_folder / "pool_truth.json"),
    )
    return Config(data=data, seed=seed)


def run_demo(out: Path, seed: int) -> dict[str, Any]:
    """Generate the set into `out/data`, run every stage, and return the metrics of the evaluation."""
    data_folder = (out / "data").absolute()
    generate(data_folder, seed=seed)
    artifacts = run_pipeline(demo_config(data_folder, seed), RunFolder(str(out.absolute())))
    return artifacts["evaluate"]["metrics"]


def format_metrics(metrics: dict[str, Any]) -> str:
    """AP of every model, and calibration of the pool's labels before and after correction, as text for people."""
    names = ("AP", "AP50", "APr", "APc", "APf")
    lines = ["validation (mask AP x 100)" + "".join(f"{name:>8}" for name in names)]
    for arm, figures in metrics["validation"].items():
        cells = "".join("       –" if (value := figures.get(name)) is None else f"{100 * value:8.1f}" for name in names)
        lines.append(f"  {arm:<24}{cells}")
    pool = metrics.get("pool")
    if pool and pool["num_instances"]:
        lines.append("pool labels against their hidden truth     raw  calibrated")
        for name in ("ece", "nll", "ccece"):
            raw, calibrated = pool["raw"][name], pool["calibrated"][name]
            lines.append(f"  {name.upper():<36}{raw:10.3f}{calibrated:12.3f}")
        selected = pool["selected"]
        lines.append(
            f"pseudo-labels kept: {selected['num']}, precision {selected['precision']:.3f}, "
            f"recall {selected['recall']:.3f}"
        )
    return "\n".join(lines)
