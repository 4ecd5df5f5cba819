"""Does matching scores on the pool help calibration by folds? The pool's labels of finished runs, calibrated both ways.

    PYTHONPATH=benchmarks:tests/support python benchmarks/cross_fitting.py \
        "runs/distillation/alike-240-full/seed-33/2 folds, augmented" ...

Each RUN is finished, has `calibration.folds` and a pool with a truth, as the recipes of `distillation.py` with folds.
The fold teachers' detections are matched again. The corrector is fitted to their scores as they are, or to the scores
that the teacher of all images would give (`transfer_scores`, which raylabel does). No model is trained.
"""

import argparse
import shutil
import tempfile
from os import link
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as students_t

from raylabel.calibration import Detections
from raylabel.config import Config
from raylabel.evaluation.pool_quality import measure_pool
from raylabel.run.data import RunData, truth_match
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.stages import calibrate
from raylabel.stages.label import recalibrate
from raylabel.stages.run import run_one
from without_ray import put_stages_here

FIGURES = ("ece", "nll", "ccece")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for path in arguments.runs:
        for name, figures in figures_of(path).items():
            found.setdefault(name, []).append(figures)
            print(f"{path}  {name:<16}" + "".join(f"{figures[one]:9.3f}" for one in FIGURES), flush=True)
    print(f"\n{'mean of ' + str(len(arguments.runs)):<18}" + "".join(f"{one:>9}" for one in FIGURES))
    for name, runs in found.items():
        print(f"{name:<18}" + "".join(f"{np.mean([one[figure] for one in runs]):9.3f}" for figure in FIGURES))
    for figure in FIGURES:
        gaps = np.array([b[figure] - a[figure] for a, b in zip(found["as they are"], found["matched"], strict=True)])
        half = students_t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else np.nan
        print(f"matched minus as they are, {figure}: {gaps.mean():+.4f} ± {half:.4f}")


def figures_of(path: Path) -> dict[str, dict[str, float]]:
    """Return the pool's calibration figures by the way of calibrating."""
    figures: dict[str, dict[str, float]] = {}
    for name in ("as they are", "matched"):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, pytest.MonkeyPatch.context() as patch:
            copied = Path(folder) / "run"
            shutil.copytree(path, copied, copy_function=link)  # stages replace files and never change them
            (copied / "calibration" / "artifact.json").unlink()
            put_stages_here(patch)
            if name == "as they are":
                patch.setattr(calibrate, "_on_teachers_scale", _unchanged)
            run = RunFolder(str(copied))
            config = load_run_config(run)
            run_one("calibrate", config, run)
            recalibrate(run, config.calibration.corrector)
            data = RunData(config, run)
            measured = measure_pool(
                run,
                truth_match(data),
                calibration=config.calibration,
                selection=config.selection,
                max_pixels=config.data.max_image_pixels,
            )
            assert measured is not None, f"{path}: the pool has no truth"
            figures["raw"], figures[name] = measured["raw"], measured["calibrated"]
    return figures


def _unchanged(config: Config, run: RunFolder, data: RunData, detections: Detections) -> Any:
    """Stand in for the transfer of scores."""
    return detections


if __name__ == "__main__":
    main()
