"""What distillation, its targets and their correction are worth, on generated worlds with full truth.

    PYTHONPATH=benchmarks python benchmarks/distillation.py --out runs/distillation --seeds 5

For each seed a world (`distillation_world`): 120 labelled images with a long tail, 120 held out for calibration, a pool
of 3,000 that is less skewed, a test split with each class as often. A teacher is trained at a constant rate until
labelled steps no longer help; every student starts from its moving average and makes the same number of steps. Printed
are means over seeds, and differences from supervised training of the same compute and from the teacher, with paired 95%
intervals over seeds (Student's t). What is finished is in `--out` and not done again; `--smoothing` compares teachers,
`--num-labelled` sizes of the labelled set.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from distillation_arms import (
    Arm,
    Lengths,
    box_head_similarity,
    corrected,
    measure,
    new_segmenter,
    one_hot,
    pool_targets,
    predict,
    smoothed,
    train_student,
    train_teacher,
)
from distillation_world import World, generate_world
from safetensors.torch import load_file, save_file
from scipy.stats import t as students_t

from raylabel.config import CorrectorKind, PoolLosses, SmoothingKind
from raylabel.instances import Instances

EVERYTHING = PoolLosses(classes=1, objectness=1, boxes=1, masks=1)
ARMS = {
    "supervised": Arm(pool_losses=None),
    "supervised, constant rate": Arm(pool_losses=None, is_constant=True),
    "supervised, calibration images too": Arm(pool_losses=None, with_calibration=True),
    "hard": Arm(is_hard=True),
    "soft": Arm(),
    "soft + ccece": Arm(corrector="ccece"),
    "soft + hierarchical": Arm(corrector="hierarchical"),
    "soft + contextual": Arm(corrector="contextual"),
    "soft + marginal": Arm(corrector="marginal"),
    "soft + marginal, boxes and masks too": Arm(corrector="marginal", pool_losses=EVERYTHING),
    "soft, calibration images too": Arm(with_calibration=True),
    "soft + marginal, round 2": Arm(corrector="marginal", teacher="soft + marginal"),
}
OUTPUT_CORRECTORS: tuple[CorrectorKind, ...] = ("marginal", "contextual")
"""Correctors that act on outputs, of the teacher and of some students."""
CORRECTED_OUTPUTS = ("teacher", "soft", "soft + marginal")
SMOOTHINGS: dict[str, tuple[SmoothingKind, float]] = {
    "none": ("none", 0.0),
    "uniform": ("uniform", 0.2),
    "similarity (box head)": ("similarity", 0.2),
}
"""Name -> kind and mass of the rarest class."""
COLUMNS = ("AP", "APr", "APc", "APf", "AP^pool", "NLL", "ECE", "CCECE")


def main() -> None:
    arguments = _arguments()
    started = time.monotonic()
    ray.init(num_cpus=arguments.num_cpus, include_dashboard=False, log_to_driver=True)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    lengths = Lengths(
        warmup=arguments.warmup,
        teacher=arguments.teacher_steps,
        student=arguments.student_steps,
        is_bf16=arguments.bf16,
    )
    arms = {name: ARMS[name] for name in arguments.arms or ARMS}
    waiting: list[Any] = []
    figures: dict[int, dict[str, dict[str, float]]] = {seed: {} for seed in seeds}
    smoothings = [kind for kind in SMOOTHINGS if kind == "none" or arguments.smoothing]
    for seed in seeds:
        place = {"out": str(arguments.out), "seed": seed, "num_labelled": arguments.num_labelled}
        finished_arms = {name: _read(_folder(place), name) for name in [*map(_teacher_name, smoothings), *arms]}
        for known in finished_arms.values():
            figures[seed] |= known or {}
        if all(finished_arms.values()):
            continue
        world = world_task.remote(place)
        done: dict[str, Any] = dict.fromkeys(finished_arms)
        for kind in smoothings:
            if not finished_arms[_teacher_name(kind)]:
                after = None if kind == "none" else done["teacher"]
                done[_teacher_name(kind)] = teacher_task.remote(place, lengths, world, kind, after)
        found: dict[str, Any] = {}
        for name, arm in arms.items():
            if not finished_arms[name]:
                if arm.teacher not in found:
                    found[arm.teacher] = label_task.remote(place, world, arm.teacher, done[arm.teacher])
                done[name] = student_task.remote(place, lengths, world, name, arm, found[arm.teacher])
        waiting += [task for task in done.values() if task is not None]
    while waiting:
        [finished], waiting = ray.wait(waiting)
        seed, of_task = ray.get(finished)
        figures[seed] |= of_task
        minutes = (time.monotonic() - started) / 60
        for name, one in of_task.items():
            print(f"{minutes:6.1f} min  seed {seed}  {name}: AP {one['AP']:.1f}  APr {one['APr']:.1f}", flush=True)
    print_tables(list(figures.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS))
    parser.add_argument("--smoothing", action="store_true", help="also train teachers with each kind of smoothing")
    parser.add_argument("--num-labelled", type=int, default=120)
    parser.add_argument("--warmup", type=int, default=Lengths().warmup)
    parser.add_argument("--teacher-steps", type=int, default=Lengths().teacher)
    parser.add_argument("--student-steps", type=int, default=Lengths().student)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16: faster where the CPU has it")
    parser.add_argument("--num-cpus", type=int, default=os.cpu_count())
    return parser.parse_args()


@ray.remote(num_cpus=1)
def world_task(place: dict[str, Any]) -> World:
    """The world of a seed; shared by its tasks."""
    return generate_world(place["seed"], num_labelled=place["num_labelled"])


@ray.remote(num_cpus=1)
def teacher_task(
    place: dict[str, Any], lengths: Lengths, world: World, kind: str, after: Any = None
) -> tuple[int, dict[str, dict[str, float]]]:
    """Train and measure a teacher with a kind of smoothing; all kinds go on from the same unsmoothed warm-up."""
    name, seed, folder = _teacher_name(kind), place["seed"], _folder(place)
    labelled, warm = world["labelled"], folder / "warmup.safetensors"
    if not warm.exists():
        assert kind == "none", "the unsmoothed teacher makes the warm-up"
        warmed = train_teacher(labelled, seed, lengths, class_targets=one_hot(labelled), start=0, stop=lengths.warmup)
        _save(warmed.state_dict(), warm)
    state = load_file(warm)
    similarity = box_head_similarity(new_segmenter(labelled, seed, state), labelled)
    smoothing, eps_max = SMOOTHINGS[kind]
    targets = smoothed(labelled, smoothing, similarity, eps_max)
    teacher = train_teacher(
        labelled, seed, lengths, class_targets=targets, start=lengths.warmup, stop=lengths.teacher, state=state
    )
    _save(teacher.state_dict(), folder / f"{name}.safetensors")
    return seed, _measure_all(world, teacher, name, folder)


@ray.remote(num_cpus=1)
def label_task(place: dict[str, Any], world: World, teacher: str, after: Any) -> dict[str, list[Instances]]:
    """What a teacher says of the pool and of the calibration split."""
    segmenter = new_segmenter(world["labelled"], 0, load_file(_folder(place) / f"{teacher}.safetensors")).eval()
    return {name: predict(segmenter, world[name]) for name in ("pool", "calibration")}


@ray.remote(num_cpus=1)
def student_task(
    place: dict[str, Any], lengths: Lengths, world: World, name: str, arm: Arm, found: dict[str, list[Instances]]
) -> tuple[int, dict[str, dict[str, float]]]:
    """Train and measure a student."""
    seed, folder = place["seed"], _folder(place)
    targets = None
    if arm.pool_losses is not None:
        vectors = corrected(arm.corrector, world, found["calibration"], found["pool"], is_pool=True)
        targets = pool_targets(found["pool"], vectors, is_hard=arm.is_hard)
    state = load_file(folder / f"{arm.teacher}.safetensors")
    student = train_student(world, arm, targets, seed, lengths, state)
    _save(student.state_dict(), folder / f"{name}.safetensors")
    return seed, _measure_all(world, student, name, folder)


def _measure_all(world: Any, segmenter: Any, name: str, folder: Path) -> dict[str, dict[str, float]]:
    found = predict(segmenter.eval(), world["test"])
    figures = {name: measure(world, found, [one.soft_vectors for one in found])}
    if name in CORRECTED_OUTPUTS:
        calibration = predict(segmenter, world["calibration"])
        for kind in OUTPUT_CORRECTORS:
            vectors = corrected(kind, world, calibration, found, is_pool=False)
            figures[f"{name}, outputs {kind}"] = measure(world, found, vectors)
    (folder / f"{name}.json").write_text(json.dumps(figures))
    return figures


def _teacher_name(kind: str) -> str:
    return "teacher" if kind == "none" else f"teacher, {kind}"


def _folder(place: dict[str, Any]) -> Path:
    folder = Path(place["out"], f"labelled-{place['num_labelled']}", f"seed-{place['seed']}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _save(state: dict[str, torch.Tensor], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, temporary)
    temporary.rename(path)


def _read(folder: Path, name: str) -> dict[str, dict[str, float]] | None:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def print_tables(seeds: Sequence[dict[str, dict[str, float]]]) -> None:
    """Means over seeds, and paired differences with 95% intervals."""
    names = [name for name in seeds[0] if all(name in one for one in seeds)]
    width = max(len(name) for name in names) + 2
    print(f"\n{len(seeds)} seeds\n{'mean':<{width}}" + "".join(f"{column:>9}" for column in COLUMNS))
    for name in names:
        means = [np.mean([one[name].get(column, np.nan) for one in seeds]) for column in COLUMNS]
        row = "".join(f"{mean:9.{_digits(column)}f}" for column, mean in zip(COLUMNS, means, strict=True))
        print(f"{name:<{width}}{row}")
    for base in ("supervised", "teacher", "soft", "hard"):
        if base not in names:
            continue
        print(f"\n{'minus ' + base:<{width}}{'AP':>16}{'APr':>16}{'NLL':>20}")
        for name in names:
            if name != base:
                cells = [_difference(seeds, name, base, column) for column in ("AP", "APr", "NLL")]
                print(f"{name:<{width}}{cells[0]:>16}{cells[1]:>16}{cells[2]:>20}")


def _digits(column: str) -> int:
    return 1 if column.startswith("AP") else 3


def _difference(seeds: Sequence[dict[str, dict[str, float]]], name: str, base: str, column: str) -> str:
    gaps = np.array([one[name][column] - one[base][column] for one in seeds])
    digits = _digits(column)
    if len(gaps) < 2:
        return f"{gaps.mean():+.{digits}f}"
    half = students_t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.{digits}f} ± {half:.{digits}f}"


if __name__ == "__main__":
    main()
