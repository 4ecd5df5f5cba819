"""What is the best use of N labelled images? Supervised training on all of them against every recipe of distillation.

    PYTHONPATH=benchmarks:tests/support python benchmarks/distillation.py --out runs/distillation --seeds 31 32

Each seed gives a world (`distillation_world`). Each recipe (`distillation_recipes`) is a few options of `raylabel run`,
and the product's own stages run it. Every recipe of a world has the same N labelled images, the same pool and the same
validation images. The tables show means over seeds, and differences from supervised training with paired 95% intervals
over seeds (Student's t). Finished recipes stay in `--out` and are reused. One process per CPU takes whole worlds.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as students_t

from distillation_recipes import RECIPES, run_recipe
from distillation_world import SIZES, Kind, World

COLUMNS = ("AP", "APr", "APc", "APf")
POOL_COLUMNS = ("nll", "ece", "ccece")
Figures = dict[str, dict[str, float]]
"""Figures by the name of a model."""


def main() -> None:
    arguments = _arguments()
    started = time.monotonic()
    names = list(arguments.recipes)
    worlds = [(kind, seed) for seed in arguments.seeds for kind in arguments.kinds]
    with ProcessPoolExecutor(arguments.num_processes, mp_context=get_context("spawn")) as processes:
        tasks = [processes.submit(run_world, _world(arguments, kind, seed), names, started) for kind, seed in worlds]
        for task in as_completed(tasks):
            task.result()
    for kind in arguments.kinds:
        figures = [read_figures(_world(arguments, kind, seed).folder, names) for seed in arguments.seeds]
        print_tables(
            f"{arguments.num_labelled} labelled images, {kind}, size {arguments.size}", figures, arguments.base
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--kinds", nargs="+", choices=("mixed", "alike"), default=["mixed", "alike"])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--num-labelled", type=int, default=240)
    parser.add_argument("--size", choices=list(SIZES), default="full", help="size of images and trainings")
    parser.add_argument("--base", default="supervised: student", help="the model that others are compared with")
    parser.add_argument("--num-processes", type=int, default=os.cpu_count())
    return parser.parse_args()


def _world(arguments: argparse.Namespace, kind: Kind, seed: int) -> World:
    folder = arguments.out.absolute() / f"{kind}-{arguments.num_labelled}-{arguments.size}" / f"seed-{seed}"
    return World(folder=folder, kind=kind, seed=seed, num_labelled=arguments.num_labelled, size=SIZES[arguments.size])


def run_world(world: World, names: Sequence[str], started: float) -> None:
    """Run the missing recipes of a world, and write the figures of each."""
    for name in names:
        path = _figures_path(world.folder, name)
        if not path.exists():
            metrics = run_recipe(world, RECIPES[name], world.folder / name)
            path.write_text(json.dumps(metrics))
        models = json.loads(path.read_text())["validation"]
        figures = "  ".join(f"{model} {_shown(one['AP'])} / {_shown(one['APr'])}" for model, one in models.items())
        print(f"{(time.monotonic() - started) / 60:6.1f} min  {world.kind} {world.seed}  {name}: {figures}", flush=True)


def _shown(value: float | None) -> str:
    """Write a figure. A world of many labels may have no rare class."""
    return "–" if value is None else f"{value:.3f}"


def _figures_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def read_figures(folder: Path, names: Sequence[str]) -> Figures:
    """Read the figures of every recipe's models, in percent, and of its pool labels."""
    figures: Figures = {}
    for name in names:
        metrics: dict[str, Any] = json.loads(_figures_path(folder, name).read_text())
        pool = (metrics["pool"] or {}).get("calibrated", {})
        for model, one in metrics["validation"].items():
            known = {column: 100 * one[column] for column in COLUMNS if one.get(column) is not None}
            of_pool = {column: pool[column] for column in POOL_COLUMNS if column in pool and model == "teacher"}
            figures[f"{name}: {model}"] = known | of_pool
    return figures


def print_tables(title: str, seeds: Sequence[Figures], base: str) -> None:
    """Print means over seeds, and paired differences from the base model with 95% intervals."""
    names = [name for name in seeds[0] if all(name in one for one in seeds)]
    width = max(len(name) for name in names) + 2
    columns = (*COLUMNS, *POOL_COLUMNS)
    print(f"\n{title}, {len(seeds)} seeds\n{'mean':<{width}}" + "".join(f"{column:>9}" for column in columns), end="")
    print("".join(f"{column + ' minus ' + base:>34}" for column in COLUMNS[:2]))
    for name in names:
        means = [_mean([one[name].get(column, np.nan) for one in seeds]) for column in columns]
        row = "".join(f"{mean:9.{_digits(column)}f}" for column, mean in zip(columns, means, strict=True))
        gaps = [_difference(seeds, name, base, column) for column in COLUMNS[:2]] if base in names else []
        print(f"{name:<{width}}{row}" + "".join(f"{gap:>34}" for gap in gaps))


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the known values."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def _digits(column: str) -> int:
    return 1 if column.startswith("AP") else 3


def _difference(seeds: Sequence[Mapping[str, Mapping[str, float]]], name: str, base: str, column: str) -> str:
    gaps = np.array([one[name].get(column, np.nan) - one[base].get(column, np.nan) for one in seeds])
    gaps = gaps[~np.isnan(gaps)]  # worlds without a class of the group do not count
    if len(gaps) < 2:
        return f"{_mean(gaps.tolist()):+.1f}"
    half = students_t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.1f} ± {half:.1f}"


if __name__ == "__main__":
    main()
