"""Measure the evaluation of a run with several models, on generated predictions of a chosen size.

    python benchmarks/evaluate_size.py [--images 20000] [--detections 300] [--classes 1203] [--models 4] \
        [--shard-size 256] [--verify] [--folder FOLDER]

The defaults have the size of LVIS's validation split with 300 detections per image and model. Images, annotations and
masks are those of results_size.py. All models have the same predictions, because what the driver does depends on their
number alone. Two phases use the functions that a run uses. Each is a process with its own peak of memory:

- `workers`: the match rows of every shard of one model, written to FOLDER. A run's workers do this after each model has
  predicted a shard. An existing FOLDER with these files is not made again.
- `driver`: the rows of all shards are merged, and the figures and their intervals are computed. With --verify, the
  official evaluator computes the figures of the sample.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.dataset.annotated_copy import open_copy, write_copy
from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.evaluation.evaluated_set import EvaluatedSet
from raylabel.evaluation.official import verify_models
from raylabel.evaluation.precision_intervals import precision_intervals
from raylabel.evaluation.streamed_precision import StreamedPrecision
from raylabel.processes import map_on_processes
from raylabel.report.console import format_verification
from results_size import CLASSES_PER_IMAGE, HEIGHT, NUM_SCENES, OBJECTS_PER_IMAGE, WIDTH, Scene, run_measured

Shard = tuple[int, list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--detections", type=int, default=300, help="detections per image and model")
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--shard-size", type=int, default=256, help="images per shard")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--folder", type=Path, help="folder of the files (default: a temporary one)")
    parser.add_argument("--phase", choices=("workers", "driver"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        {"workers": match_all, "driver": merge}[arguments.phase](arguments)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        generate_truth(folder, arguments)
        command = [sys.executable, *sys.argv, "--folder", str(folder), "--phase"]
        if not list(folder.glob("*.arrows")):
            print(f"workers: {run_measured([*command, 'workers'])}", flush=True)
        print(f"driver: {run_measured([*command, 'driver'])}", flush=True)


def generate_truth(folder: Path, arguments: argparse.Namespace) -> None:
    """Write the annotations, and the copy that a run keeps of them."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "set.json").exists():
        return
    world = World(arguments.classes, arguments.detections)
    images, objects = [], list[dict[str, Any]]()
    for image_id in range(1, arguments.images + 1):
        image, of_image = world.truth(image_id)
        images.append(image)
        objects += [{"id": len(objects) + place, **one} for place, one in enumerate(of_image, start=1)]
    frequencies = np.array(["f", "c", "r"])[np.clip(3 * np.arange(arguments.classes) // arguments.classes, 0, 2)]
    categories = [
        {"id": one + 1, "name": f"class {one + 1}", "frequency": str(frequencies[one])}
        for one in range(arguments.classes)
    ]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    write_copy(str(folder / "truth.json"), None, str(folder))


class World:
    """Truth and detections of images by their ids."""

    def __init__(self, num_classes: int, num_detections: int) -> None:
        rng = np.random.default_rng(0)
        self._scenes = [Scene(rng, num_detections) for _ in range(NUM_SCENES)]
        self._shares = 1 / (np.arange(num_classes) + 3.0)
        self._shares /= self._shares.sum()

    def _drawn(self, image_id: int) -> tuple[Scene, np.ndarray, np.random.Generator]:
        rng = np.random.default_rng([0, image_id])
        scene, num_classes = self._scenes[int(rng.integers(NUM_SCENES))], len(self._shares)
        some = rng.choice(num_classes, min(CLASSES_PER_IMAGE, num_classes), p=self._shares, replace=False)
        return scene, rng.choice(some, OBJECTS_PER_IMAGE), rng

    def truth(self, image_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return an image and its annotations, without ids of these."""
        scene, classes, rng = self._drawn(image_id)
        num_classes = len(self._shares)
        negative = np.setdiff1d(rng.choice(num_classes, min(6, num_classes), replace=False), classes)
        image = {"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}
        image |= {"neg_category_ids": (negative + 1).tolist(), "not_exhaustive_category_ids": []}
        return image, [
            {"image_id": image_id, "category_id": int(one) + 1, "segmentation": [polygon], "bbox": box}
            | {"area": area, "iscrowd": 0}
            for one, (polygon, box, area) in zip(classes, scene.objects, strict=True)
        ]

    def results(self, image_id: int) -> list[dict[str, Any]]:
        """Return what `results_of_image` makes of a model's predictions of an image."""
        scene, classes, _ = self._drawn(image_id)
        found = scene.detections(image_id, classes, self._shares, np.random.default_rng([1, image_id]))
        return [{name: value for name, value in one.items() if name != "bbox"} for one in found]


def match_all(arguments: argparse.Namespace) -> None:
    rows = range(arguments.images)
    shards = [
        (number, list(rows[start : start + arguments.shard_size]))
        for number, start in enumerate(range(0, len(rows), arguments.shard_size))
    ]
    import evaluate_size  # because other processes know this module by its name

    for _ in map_on_processes(partial(evaluate_size.match_shard, vars(arguments)), shards):
        pass


def match_shard(arguments: dict[str, Any], shard: Shard) -> None:
    """Write the match rows of a shard."""
    folder, (number, rows) = arguments["folder"], shard
    world, evaluated = opened(folder, arguments["classes"], arguments["detections"], arguments["verify"])
    truth = evaluated.truth(rows)
    table = evaluated.match("", truth, {row + 1: world.results(row + 1) for row in rows})
    with pa.OSFile(str(folder / f"{number:06d}.arrows"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


@cache
def opened(folder: Path, num_classes: int, num_detections: int, has_sample: bool) -> tuple[World, EvaluatedSet]:
    """Open everything once per process."""
    return World(num_classes, num_detections), EvaluatedSet(read(folder), has_sample=has_sample)


def read(folder: Path) -> AnnotatedSet:
    """Open the annotations."""
    return open_copy(str(folder), str(folder / "truth.json"), None)


def merge(arguments: argparse.Namespace) -> None:
    start, num_bytes = time.perf_counter(), 0
    precision = StreamedPrecision(EvaluatedSet(read(arguments.folder), has_sample=arguments.verify))
    for path in sorted(arguments.folder.glob("*.arrows")):
        num_bytes += arguments.models * path.stat().st_size
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
            matches = reader.read_all()
        for model in range(arguments.models):
            precision.add(matches.set_column(0, "model", pa.array([f"model {model}"] * len(matches))))
    _say(f"merged {num_bytes / 2**20:,.0f} MiB of match rows", start)
    measured = precision.measured()
    for name, one in measured.items():
        interval = precision_intervals(one)["AP"]
        print(f"{name}: AP {interval.value:.4f} ± {interval.half_width:.4f}", file=sys.stderr)
    _say("figures and intervals", start)
    if arguments.verify:
        found = verify_models(precision, {name: one.figures for name, one in measured.items()})
        print(format_verification(found.to_json()), file=sys.stderr)
        _say("verified", start)


def _say(what: str, start: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cpu = time.process_time()
    print(
        f"{what}: after {time.perf_counter() - start:.0f} s, {cpu:.0f} s of CPU, peak {peak:.2f} GiB", file=sys.stderr
    )


if __name__ == "__main__":
    main()
