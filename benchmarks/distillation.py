"""Measure the gain from distillation, its targets and their correction, on generated worlds with full truth.

    PYTHONPATH=benchmarks python benchmarks/distillation.py --out runs/distillation --seeds 5

Each seed gives a world (`distillation_world`): 120 long-tailed labelled images, 120 calibration images, a less skewed
pool of 3,000 images, and a test split with equally frequent classes. A teacher trains at a constant rate until labelled
steps no longer help. Every student starts from the teacher's moving average and makes the same number of steps.

It prints means over seeds. It also prints differences from supervised training with the same compute and from the
teacher, with paired 95% intervals over seeds (Student's t). Finished results stay in `--out` and are reused.
`--smoothing` compares teachers; `--num-labelled` sets the size of the labelled set. With `--seeds 2` and a few `--arms`
it takes 20 minutes on 2 cores.
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
    class_similarity_at,
    corrected,
    fold_predictions,
    held_out_detections,
    matched,
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
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.stats import t as students_t

from raylabel.calibration import Detections
from raylabel.config import CorrectorKind, MaskQuality, PoolLosses, SmoothingKind
from raylabel.models.segmenter import Segmenter
from raylabel.predictions.instances import Instances

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
    "soft + marginal, 30 calibration images": Arm(corrector="marginal", num_calibration=30),
    "soft + marginal, cross-fitted": Arm(corrector="marginal", is_cross_fitted=True),
    "soft + marginal, boxes and masks too": Arm(corrector="marginal", pool_losses=EVERYTHING),
    "soft + marginal, boxes and masks by quality": Arm(corrector="marginal", pool_losses=EVERYTHING, by_quality=True),
    "soft + marginal, boxes and masks by agreement": Arm(
        corrector="marginal", pool_losses=EVERYTHING, by_quality=True, mask_quality="agreement"
    ),
    "soft + contextual, which knows agreement": Arm(corrector="contextual", mask_quality="agreement"),
    "soft, calibration images too": Arm(with_calibration=True),
    "soft + marginal, round 2": Arm(corrector="marginal", teacher="soft + marginal"),
    "soft + contextual, round 2": Arm(corrector="contextual", teacher="soft + contextual"),
}
OUTPUT_CORRECTORS: tuple[CorrectorKind, ...] = ("marginal", "contextual")
"""Correctors for the outputs of the models in `CORRECTED_OUTPUTS`."""
CORRECTED_OUTPUTS = (
    "teacher",
    "supervised",
    "soft",
    "soft + marginal",
    "soft + contextual",
    "soft + marginal, round 2",
    "soft + contextual, round 2",
)
SMOOTHINGS: dict[str, tuple[SmoothingKind, str]] = {
    "uniform": ("uniform", "box_head"),
    "similarity (box head)": ("similarity", "box_head"),
    "similarity (backbone)": ("similarity", "backbone"),
}
"""Name -> kind of smoothing, and layer of the prototypes."""
NUM_FOLDS = 2
COLUMNS = ("AP", "APr", "APc", "APf", "AP^pool", "NLL", "ECE", "CCECE")


def main() -> None:
    arguments = _arguments()
    started = time.monotonic()
    ray.init(address="local", num_cpus=arguments.num_cpus, include_dashboard=False, log_to_driver=True)
    lengths = Lengths(
        warmup=arguments.warmup,
        teacher=arguments.teacher_steps,
        student=arguments.student_steps,
        is_bf16=arguments.bf16,
    )
    arms = {name: ARMS[name] for name in (ARMS if arguments.arms is None else arguments.arms)}
    seeds = list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    figures: dict[int, dict[str, dict[str, float]]] = {seed: {} for seed in seeds}
    to_come, waiting = list(seeds), dict[Any, int]()
    while to_come or waiting:
        # Seed by seed, because an interrupted run then has complete seeds.
        while to_come and len(set(waiting.values())) < arguments.num_cpus:
            seed = to_come.pop(0)
            place = {"out": str(arguments.out), "seed": seed}
            place |= {"num_labelled": arguments.num_labelled, "num_pool": arguments.num_pool}
            known, tasks = _start(place, lengths, arms, arguments.smoothing)
            figures[seed] |= known
            waiting |= dict.fromkeys(tasks, seed)
        if not waiting:
            continue
        [finished], _ = ray.wait(list(waiting))
        seed = waiting.pop(finished)
        of_task = ray.get(finished)
        figures[seed] |= of_task
        minutes = (time.monotonic() - started) / 60
        for name, one in of_task.items():
            print(f"{minutes:6.1f} min  seed {seed}  {name}: AP {one['AP']:.1f}  APr {one['APr']:.1f}", flush=True)
    print_tables(list(figures.values()))


def _start(
    place: dict[str, Any], lengths: Lengths, arms: dict[str, Arm], smoothings: Sequence[tuple[str, float]]
) -> tuple[dict[str, dict[str, float]], list[Any]]:
    """Return the finished figures of a seed, and tasks that compute the missing ones."""
    names = ["teacher", *(_smoothed_name(*one) for one in smoothings), *arms]
    finished = {name: known for name in names if (known := _read(_folder(place), name)) is not None}
    figures = {name: one for known in finished.values() for name, one in known.items()}
    if len(finished) == len(names):
        return figures, []
    world = world_task.remote(place)
    tasks: dict[str, Any] = {}
    if "teacher" not in finished:
        tasks["teacher"] = teacher_task.remote(place, lengths, world)
    for kind, eps_max in smoothings:
        name = _smoothed_name(kind, eps_max)
        if name not in finished:
            tasks[name] = smoothed_teacher_task.remote(place, lengths, world, kind, eps_max, tasks.get("teacher"))
    said: dict[tuple[str, MaskQuality], Any] = {}
    folds = None
    for name, arm in arms.items():
        if name in finished:
            continue
        by = (arm.teacher, arm.mask_quality)
        if by not in said:
            said[by] = label_task.remote(place, world, *by, tasks.get(arm.teacher))
        if arm.is_cross_fitted and folds is None:
            folds = fold_task.remote(place, lengths, world)
        held_out = folds if arm.is_cross_fitted else None
        tasks[name] = student_task.remote(place, lengths, world, name, arm, said[by], held_out)
    return figures, list(tasks.values())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), help="arms to run; all by default")
    parser.add_argument(
        "--smoothing",
        nargs="*",
        type=_smoothing,
        default=[],
        metavar="KIND=MASS",
        help=f"also train these teachers: a kind ({', '.join(SMOOTHINGS)}) and the mass that the rarest class loses",
    )
    parser.add_argument("--num-labelled", type=int, default=120)
    parser.add_argument("--num-pool", type=int, default=3000)
    parser.add_argument("--warmup", type=int, default=Lengths().warmup)
    parser.add_argument("--teacher-steps", type=int, default=Lengths().teacher)
    parser.add_argument("--student-steps", type=int, default=Lengths().student)
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16; faster on CPUs that support it")
    parser.add_argument("--num-cpus", type=int, default=os.cpu_count())
    return parser.parse_args()


def _smoothing(text: str) -> tuple[str, float]:
    kind, _, mass = text.rpartition("=")
    if kind not in SMOOTHINGS:
        raise argparse.ArgumentTypeError(f"must be KIND=MASS with a kind of {', '.join(SMOOTHINGS)}, got {text!r}")
    return kind, float(mass)


@ray.remote(num_cpus=1)
def world_task(place: dict[str, Any]) -> World:
    """Generate the world of a seed. All tasks of the seed share it."""
    return generate_world(place["seed"], num_labelled=place["num_labelled"], num_pool=place["num_pool"])


@ray.remote(num_cpus=1)
def teacher_task(place: dict[str, Any], lengths: Lengths, world: World) -> dict[str, dict[str, float]]:
    """Train and measure the teacher without smoothing. Its warm-up is saved for the smoothed teachers."""
    labelled, seed, folder = world["labelled"], place["seed"], _folder(place)
    targets = one_hot(labelled)
    warm = train_teacher(labelled, seed, lengths, class_targets=targets, start=0, stop=lengths.warmup).state_dict()
    _save(warm, folder / "warmup.safetensors")
    return _finish_teacher(place, lengths, world, "teacher", targets)


@ray.remote(num_cpus=1)
def smoothed_teacher_task(
    place: dict[str, Any], lengths: Lengths, world: World, kind: str, eps_max: float, after: Any
) -> dict[str, dict[str, float]]:
    """Train and measure a teacher whose targets are smoothed after the warm-up."""
    labelled, (smoothing, layer) = world["labelled"], SMOOTHINGS[kind]
    warm = new_segmenter(labelled, place["seed"], load_file(_folder(place) / "warmup.safetensors"))
    targets = smoothed(labelled, smoothing, class_similarity_at(warm, labelled, layer), eps_max)
    return _finish_teacher(place, lengths, world, _smoothed_name(kind, eps_max), targets)


def _finish_teacher(
    place: dict[str, Any], lengths: Lengths, world: World, name: str, class_targets: NDArray[np.float32]
) -> dict[str, dict[str, float]]:
    folder, labelled = _folder(place), world["labelled"]
    teacher = train_teacher(
        labelled,
        place["seed"],
        lengths,
        class_targets=class_targets,
        start=lengths.warmup,
        stop=lengths.teacher,
        state=load_file(folder / "warmup.safetensors"),
    )
    _save(teacher.state_dict(), folder / f"{name}.safetensors")
    return _measure_all(world, teacher, name, folder)


@ray.remote(num_cpus=1)
def fold_task(place: dict[str, Any], lengths: Lengths, world: World) -> Detections:
    """Match the predictions of fold teachers on labelled images that they have not seen."""
    return matched(world["labelled"], fold_predictions(world["labelled"], place["seed"], lengths, NUM_FOLDS))


@ray.remote(num_cpus=1)
def label_task(
    place: dict[str, Any], world: World, teacher: str, mask_quality: MaskQuality, after: Any
) -> dict[str, list[Instances]]:
    """Predict the pool and the calibration split with a teacher."""
    segmenter = new_segmenter(world["labelled"], 0, load_file(_folder(place) / f"{teacher}.safetensors")).eval()
    return {name: predict(segmenter, world[name], mask_quality) for name in ("pool", "calibration")}


@ray.remote(num_cpus=1)
def student_task(
    place: dict[str, Any],
    lengths: Lengths,
    world: World,
    name: str,
    arm: Arm,
    said: dict[str, list[Instances]],
    held_out: Detections | None,
) -> dict[str, dict[str, float]]:
    """Train and measure a student. `held_out` replaces the predictions of the calibration split if it is given."""
    folder = _folder(place)
    targets = None
    if arm.pool_losses is not None:
        if held_out is None:
            held_out = held_out_detections(world, said["calibration"], arm.num_calibration)
        vectors = corrected(arm.corrector, world, held_out, said["pool"], is_pool=True)
        targets = pool_targets(said["pool"], vectors, is_hard=arm.is_hard, by_quality=arm.by_quality)
    state = load_file(folder / f"{arm.teacher}.safetensors")
    student = train_student(world, arm, targets, place["seed"], lengths, state)
    _save(student.state_dict(), folder / f"{name}.safetensors")
    return _measure_all(world, student, name, folder)


def _measure_all(world: World, segmenter: Segmenter, name: str, folder: Path) -> dict[str, dict[str, float]]:
    found = predict(segmenter.eval(), world["test"])
    figures = {name: measure(world, found, [one.soft_vectors for one in found])}
    if name in CORRECTED_OUTPUTS:
        held_out = held_out_detections(world, predict(segmenter, world["calibration"]))
        for kind in OUTPUT_CORRECTORS:
            vectors = corrected(kind, world, held_out, found, is_pool=False)
            figures[f"{name}, outputs {kind}"] = measure(world, found, vectors)
    (folder / f"{name}.json").write_text(json.dumps(figures))
    return figures


def _smoothed_name(kind: str, eps_max: float) -> str:
    return f"teacher, {kind} {eps_max:g}"


def _folder(place: dict[str, Any]) -> Path:
    sizes = f"labelled-{place['num_labelled']}-pool-{place['num_pool']}"
    folder = Path(place["out"], sizes, f"seed-{place['seed']}")
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
    """Print means over seeds, and paired differences with 95% intervals."""
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
        print(f"\n{'minus ' + base:<{width}}" + "".join(f"{column:>16}" for column in COLUMNS))
        for name in names:
            if name != base:
                cells = [_difference(seeds, name, base, column) for column in COLUMNS]
                print(f"{name:<{width}}" + "".join(f"{cell:>16}" for cell in cells))


def _digits(column: str) -> int:
    return 1 if column.startswith("AP") else 3


def _difference(seeds: Sequence[dict[str, dict[str, float]]], name: str, base: str, column: str) -> str:
    gaps = np.array([one[name].get(column, np.nan) - one[base].get(column, np.nan) for one in seeds])
    digits = _digits(column)
    if len(gaps) < 2:
        return f"{gaps.mean():+.{digits}f}"
    half = students_t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.{digits}f} ± {half:.{digits}f}"


if __name__ == "__main__":
    main()
