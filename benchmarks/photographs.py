"""Supervised training, teacher and student on a config's photographs, over several seeds: AP and APr with intervals.

    python benchmarks/photographs.py configs/voc_lt.yaml --out runs/photographs --seeds 0 1 2

Each seed is one `raylabel run` of the config, in OUT/seed-N. The run's supervised baseline has the student's start,
steps and images per step. The seed sets `seed`, and the choice of the labelled images if `data.labelled` is a portion.
Other settings of the config can be changed, such as `--teacher.steps 20 --student.steps 10` to try the command.
Interrupted runs continue, and finished ones are read, so the same command also prints the tables again.

The tables show means over seeds. The first interval is over seeds: 95%, Student's t, of the paired difference below
`minus`. The second is over validation images: the mean of the runs' own intervals (jackknife), which repeat the images.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as students_t

import raylabel as rl

FIGURES = ("AP", "AP50", "APr", "APc", "APf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, others = parser.parse_known_args()
    if len(others) % 2 or not all(name.startswith("--") for name in others[::2]):
        parser.error(f"settings must be pairs such as --teacher.steps 20, got {' '.join(others)}")
    settings = dict(zip([name.removeprefix("--") for name in others[::2]], others[1::2], strict=True))
    run_seeds(arguments.config, arguments.out, arguments.seeds, settings)


def run_seeds(path: Path, out: Path, seeds: Sequence[int], settings: Mapping[str, str]) -> None:
    """Run or continue every seed, and print the tables after each."""
    started, metrics = time.monotonic(), list[dict[str, Any]]()
    for seed in seeds:
        run = out / f"seed-{seed}"
        rl.run_pipeline(seeded_config(path, seed, settings), run)
        metrics.append(rl.Run(run).metrics)
        minutes = (time.monotonic() - started) / 60
        print(f"\n{path}, seeds {', '.join(map(str, seeds[: len(metrics)]))}, {minutes:.1f} min", flush=True)
        print(format_tables(metrics), flush=True)


def seeded_config(path: Path, seed: int, settings: Mapping[str, str]) -> rl.Config:
    """Return the config with a seed, which also chooses the labelled images of a portion."""
    overrides = {**settings, "seed": str(seed)}
    if not isinstance(rl.load_config(path, overrides).data.labelled, str):
        overrides["data.labelled.seed"] = str(seed)
    return rl.load_config(path, overrides)


def format_tables(seeds: Sequence[Mapping[str, Any]]) -> str:
    """Format the metrics of the runs: figures of every model, and differences from the baseline."""
    base = seeds[0]["validation_differences"]["from"]
    models = list(seeds[0]["validation"])
    figures = [name for name in FIGURES if all(seeds[0]["validation"][model].get(name) is not None for model in models)]
    width = max(map(len, models)) + 2
    lines = [f"{'mask AP':<{width}}" + "".join(f"{name:>22}" for name in figures)]
    for model in models:
        cells = [
            _cell(
                [one["validation"][model].get(name) for one in seeds],
                [one["validation_half_widths"][model].get(name) for one in seeds],
            )
            for name in figures
        ]
        lines.append(f"{model:<{width}}" + "".join(f"{cell:>22}" for cell in cells))
    lines.append(f"minus {base}")
    for model in models:
        of_seeds = [one["validation_differences"]["models"].get(model, {}) for one in seeds]
        cells = [
            _cell(
                [one.get(name, {}).get("value") for one in of_seeds],
                [one.get(name, {}).get("half_width") for one in of_seeds],
                sign="+",
            )
            for name in figures
        ]
        if model != base:
            lines.append(f"{model:<{width}}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def _cell(values: Sequence[float | None], half_widths: Sequence[float | None], *, sign: str = "") -> str:
    """Format a mean in percent, its half width over seeds, and the mean half width over images."""
    known = 100 * np.array([one for one in values if one is not None])
    if not len(known):
        return "–"
    over_images = [100 * one for one in half_widths if one is not None]
    over_seeds = "–"
    if len(known) > 1:
        over_seeds = f"{students_t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)):.1f}"
    return f"{known.mean():{sign}.1f} ± {over_seeds} ± {f'{np.mean(over_images):.1f}' if over_images else '–'}"


if __name__ == "__main__":
    main()
