"""Measure seconds and peak memory of the commands on results files, on a generated file of a chosen size.

    python benchmarks/results_size.py [--images 20000] [--detections 300] [--classes 1203] [--format json] \
        [--commands calibrate correct evaluate] [--folder FOLDER] [--options=--no-context]

The defaults have the size of LVIS's validation split with 300 detections per image. Annotations are federated like
LVIS's: each image has objects of a few classes, and lists of classes that are verified to be absent. Masks are ellipses
with rough outlines. Most detections lie on objects, the others anywhere. Files are written as streams, and kept in
FOLDER for the next call. Each command runs in its own process. Memory is the peak of the resident set of the largest
process (`resource.getrusage`), and the highest sum over the command and the processes that it starts (Linux, sampled
each second; shared pages count once).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from process_watcher import Watcher
from raylabel.masks.encode_boxes import encode_boxes
from raylabel.masks.rle import Rle

HEIGHT, WIDTH = 480, 640
NUM_SCENES = 64
"""Scenes that images repeat, each with other classes and scores, because masks take most time of the generation."""

OBJECTS_PER_IMAGE, CLASSES_PER_IMAGE = 12, 5
COMMANDS = ("calibrate", "correct", "evaluate")
ROWS = pa.schema(
    [
        ("image_id", pa.int64()),
        ("category_id", pa.int64()),
        ("bbox", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("segmentation", pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])),
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--detections", type=int, default=300, help="detections per image")
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--format", choices=("json", "jsonl", "parquet"), default="json")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--folder", type=Path, help="folder of the files (default: a temporary one)")
    parser.add_argument("--options", default="", help="further options of calibrate, such as --options=--no-context")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments, arguments.folder or Path(temporary))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = f"{arguments.images}x{arguments.detections}x{arguments.classes}"
    annotations, predictions = folder / f"truth-{size}.json", folder / f"results-{size}.{arguments.format}"
    if not (annotations.exists() and predictions.exists()):
        generate(annotations, predictions, arguments)
    print(f"{predictions.name}: {predictions.stat().st_size / 2**20:,.0f} MiB", flush=True)
    out, corrected = folder / "calibrated", folder / f"corrected.{arguments.format}"
    given = ["--predictions", str(predictions)]
    truth = ["--annotations", str(annotations)]
    options = {
        "calibrate": [*given, *truth, "--out", str(out), *arguments.options.split()],
        "correct": [*given, "--corrector", str(out / "corrector.json"), "--out", str(corrected)],
        "evaluate": [*given, *truth],
    }
    for command in arguments.commands:
        print(
            f"{command}: {run_measured([sys.executable, '-m', 'raylabel.cli', command, *options[command]])}", flush=True
        )
        if command == "calibrate":
            print(f"calibration.html: {(out / 'calibration.html').stat().st_size / 1e6:.1f} MB", flush=True)


def run_measured(command: list[str]) -> str:
    """Run a command in a child of its own; return its seconds and its peak of memory."""
    code = (
        "import resource, subprocess, sys, json\n"
        "status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss]))"
    )
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE) as child:
        watcher = Watcher(child.pid)
        found, _ = child.communicate()
        watcher.stop()
    wall = time.perf_counter() - start
    status, cpu, kib = json.loads(found)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with exit code {status}")
    together = watcher.peak_bytes / 2**30
    return f"{wall:.0f} s, {cpu:.0f} s of CPU, peak {kib / 2**20:.2f} GiB (all processes together: {together:.2f} GiB)"


def generate(annotations: Path, predictions: Path, arguments: argparse.Namespace) -> None:
    """Write both files."""
    rng = np.random.default_rng(0)
    scenes = [Scene(rng, arguments.detections) for _ in range(NUM_SCENES)]
    shares = 1 / (np.arange(arguments.classes) + 3.0)
    shares /= shares.sum()
    images, objects = [], []
    with Writer(predictions, arguments.format) as writer:
        for image_id in range(1, arguments.images + 1):
            scene = scenes[int(rng.integers(len(scenes)))]
            some = rng.choice(arguments.classes, min(CLASSES_PER_IMAGE, arguments.classes), p=shares, replace=False)
            classes = rng.choice(some, OBJECTS_PER_IMAGE)
            negative = np.setdiff1d(rng.choice(arguments.classes, min(6, arguments.classes), replace=False), classes)
            images.append(
                {"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}
                | {"neg_category_ids": (negative + 1).tolist(), "not_exhaustive_category_ids": []}
            )
            objects += [
                {"id": len(objects) + place + 1, "image_id": image_id, "category_id": int(classes[place]) + 1}
                | {"segmentation": [polygon], "bbox": box, "area": area, "iscrowd": 0}
                for place, (polygon, box, area) in enumerate(scene.objects)
            ]
            writer.add(scene.detections(image_id, classes, shares, rng))
    frequencies = np.array(["f", "c", "r"])[np.clip(3 * np.arange(arguments.classes) // arguments.classes, 0, 2)]
    categories = [
        {"id": one + 1, "name": f"class {one + 1}", "frequency": str(frequencies[one])}
        for one in range(arguments.classes)
    ]
    annotations.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))


class Scene:
    """Objects and detections of an image, without classes and scores."""

    def __init__(self, rng: np.random.Generator, num_detections: int) -> None:
        centres = rng.uniform((40, 40), (HEIGHT - 40, WIDTH - 40), (OBJECTS_PER_IMAGE, 2))
        radii = np.exp(rng.normal(3.3, 0.7, (OBJECTS_PER_IMAGE, 2))).clip(4, 200)
        self.objects = [_polygon(rng, *shape) for shape in zip(centres, radii, strict=True)]
        of_object = rng.integers(OBJECTS_PER_IMAGE, size=num_detections)
        self.is_on_object = rng.random(num_detections) < 0.7
        self.of_object = of_object
        moved = centres[of_object] + rng.normal(0, 0.12, (num_detections, 2)) * radii[of_object]
        anywhere = rng.uniform((10, 10), (HEIGHT - 10, WIDTH - 10), (num_detections, 2))
        sizes = radii[of_object] * rng.uniform(0.85, 1.2, (num_detections, 2))
        shapes = [
            _ellipse(rng, *shape)
            for shape in zip(np.where(self.is_on_object[:, None], moved, anywhere), sizes, strict=True)
        ]
        boxes, corners = zip(*shapes, strict=True)
        self.masks: list[Rle] = encode_boxes(boxes, corners, (HEIGHT, WIDTH))
        self.boxes = [
            [float(left), float(top), float(box.shape[1]), float(box.shape[0])]
            for box, (top, left) in zip(boxes, corners, strict=True)
        ]

    def detections(
        self, image_id: int, classes: np.ndarray, shares: np.ndarray, rng: np.random.Generator
    ) -> list[dict[str, Any]]:
        num = len(self.masks)
        is_right = self.is_on_object & (rng.random(num) < 0.5)
        found = np.where(is_right, classes[self.of_object], rng.choice(len(shares), num, p=shares))
        scores = rng.beta(np.where(is_right, 2.0, 0.7), np.where(is_right, 2.0, 6.0)).clip(0.001, 0.999).round(6)
        return [
            {"image_id": image_id, "category_id": int(found[row]) + 1, "bbox": self.boxes[row]}
            | {"score": float(scores[row])}
            | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode()}}
            for row, mask in enumerate(self.masks)
        ]


def _polygon(rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray) -> tuple[list[float], list[float], float]:
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    rough = 1 + 0.05 * rng.standard_normal(len(angles))
    x = (centre[1] + rough * radii[1] * np.cos(angles)).clip(0, WIDTH).round(2)
    y = (centre[0] + rough * radii[0] * np.sin(angles)).clip(0, HEIGHT).round(2)
    box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
    area = 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
    return np.column_stack([x, y]).ravel().tolist(), box, area


def _ellipse(rng: np.random.Generator, centre: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a mask inside its box, and the box's top and left."""
    top, left = np.maximum(centre - radii, 0).astype(int)
    bottom, right = np.minimum(np.ceil(centre + radii).astype(int) + 1, (HEIGHT, WIDTH))
    top, left = min(top, HEIGHT - 2), min(left, WIDTH - 2)
    rows, columns = np.mgrid[top : max(bottom, top + 2), left : max(right, left + 2)]
    wave = 1 + 0.15 * np.sin(rng.uniform(0, 0.6) * rows + rng.uniform(0, 0.6) * columns)
    mask = (rows - centre[0]) ** 2 / radii[0] ** 2 + (columns - centre[1]) ** 2 / radii[1] ** 2 < wave
    mask[len(mask) // 2, mask.shape[1] // 2] = True
    return mask, (int(top), int(left))


class Writer:
    """Writes rows as a stream."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind, self._is_first = path, kind, True
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> "Writer":
        if self._kind == "parquet":
            self._parquet = pq.ParquetWriter(self._path, ROWS, compression="zstd")
        else:
            self._text = self._path.open("w")
        return self

    def add(self, rows: list[dict[str, Any]]) -> None:
        if self._kind == "parquet":
            self._rows += rows
            if len(self._rows) >= 50_000:
                self._flush()
        elif self._kind == "jsonl":
            self._text.writelines(json.dumps(one) + "\n" for one in rows)
        else:
            self._text.write(("[" if self._is_first else ", ") + json.dumps(rows)[1:-1])
            self._is_first = False

    def _flush(self) -> None:
        self._parquet.write_table(pa.Table.from_pylist(self._rows, ROWS))
        self._rows.clear()

    def __exit__(self, *_: object) -> None:
        if self._kind == "parquet":
            self._flush()
            self._parquet.close()
        else:
            self._text.write("]" if self._kind == "json" and not self._is_first else "")
            self._text.close()


if __name__ == "__main__":
    main()
