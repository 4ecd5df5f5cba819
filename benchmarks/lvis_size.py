"""Seconds and peak memory of a labelled set of LVIS's size: read, open, sample, check, prototypes' first batch.

    PYTHONPATH=benchmarks python benchmarks/lvis_size.py

The file is synthetic, and written as a stream: federated records in LVIS's order (annotations before images), polygons
of LVIS's lengths, every hundredth annotation an RLE. All images are one small photograph under many names. Each phase
runs in a process of its own; peak memory is that process's `ru_maxrss`, which counts mapped pages too.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

HEIGHT, WIDTH = 480, 640
LINKS = 30_000
"""Names of one file. No usual file system allows fewer."""
RLE_EVERY = 100
NUM_NEGATIVE = 12
"""Classes that are verified to be absent, per image."""
FEW_IMAGES = 16
"""Images of the first batch."""
Written = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--annotations", type=int, default=1_270_000)
    parser.add_argument("--classes", type=int, default=1203)
    parser.add_argument("--folder", help="where to keep the data and the run (default: a temporary folder)")
    parser.add_argument("--phase", choices=sorted(PHASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        run_phase(arguments.phase, Path(arguments.folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        written = write_data(folder, arguments.images, arguments.annotations, arguments.classes)
        print(", ".join(f"{value:,} {name}" for name, value in written.items()))
        print(f"{'phase':<44}{'seconds':>9}{'CPU s':>8}{'peak MiB':>10}{'of them imports':>17}")
        for phase, about in ORDER:
            row = measured(phase, folder)
            print(
                f"{about:<44}{row['seconds']:>9.2f}{row['cpu_seconds']:>8.2f}{row['peak_mib']:>10.0f}"
                f"{row['imports_mib']:>17.0f}",
                flush=True,
            )


def measured(phase: str, folder: Path) -> dict[str, float]:
    """Run a phase in a process of its own, and return its seconds and peak memory."""
    command = [sys.executable, __file__, "--phase", phase, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_phase(phase: str, folder: Path) -> None:
    """Import first, because loading torch takes seconds and memory that are not the set's."""
    work = PHASES[phase](folder)
    imports_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    found = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imports_mib": imports_mib,
    }
    print(json.dumps(found))


def settings(folder: Path) -> Any:
    """Return the config of a run on the data."""
    from raylabel.config import load_config

    return load_config(folder / "config.yaml")


def read_file(folder: Path) -> Callable[[], object]:
    """The first look at the file, which is read and kept in the run, or a worker's look at what is kept."""
    from raylabel.run.data import RunData
    from raylabel.run.folder import run_folder

    config = settings(folder)
    return lambda: RunData(config, run_folder(folder / "run")).labelled


def counts(folder: Path) -> Callable[[], object]:
    """What a worker computes from columns."""
    from raylabel.dataset.sampling import repeat_factors
    from raylabel.run.data import RunData
    from raylabel.run.folder import run_folder

    config = settings(folder)

    def work() -> None:
        labelled = RunData(config, run_folder(folder / "run")).labelled
        assert labelled.class_image_counts().sum() > 0
        assert len(labelled.negative_class_lists.values) > 0
        classes = labelled.annotated_class_lists.split()
        assert (repeat_factors(classes, labelled.num_classes, 0.001) >= 1).all()

    return work


def sample(folder: Path) -> Callable[[], object]:
    """The objects of 1,000 images drawn by repeat factors, with masks."""
    from raylabel.dataset.sampling import RepeatFactorSampler, repeat_factors
    from raylabel.run.data import RunData
    from raylabel.run.folder import run_folder

    config = settings(folder)

    def work() -> None:
        labelled = RunData(config, run_folder(folder / "run")).labelled
        classes = labelled.annotated_class_lists.split()
        factors = repeat_factors(classes, labelled.num_classes, 0.001)
        drawn = RepeatFactorSampler(factors, min(1000, len(labelled)), seed=0).batch(0)
        assert sum(len(labelled.ground_truth(row)) for row in drawn.tolist()) > 0

    return work


def check(folder: Path) -> Callable[[], object]:
    """The whole of `raylabel check`."""
    from raylabel.run.folder import run_folder
    from raylabel.stages.check import check_run

    config = settings(folder)
    return lambda: check_run(config, run_folder(folder / "run"))


def first_batch(folder: Path) -> Callable[[], object]:
    """The images and targets that a prototypes worker reads first, from its start."""
    from raylabel.run.data import RunData
    from raylabel.run.folder import run_folder
    from raylabel.stages.training_jobs import class_targets
    from raylabel.training.augment.views import no_augmentation
    from raylabel.training.examples import LabelledExamples

    config = settings(folder)

    def work() -> None:
        labelled = RunData(config, run_folder(folder / "run")).labelled
        targets = class_targets(config, labelled, None, kind="none")
        examples = LabelledExamples(labelled, targets, max_pixels=10**8, augment=no_augmentation)
        rng = np.random.default_rng(0)
        for row in range(min(FEW_IMAGES, len(examples))):
            examples.load(row, rng)

    return work


PHASES = {
    "read": read_file,
    "open": read_file,
    "counts": counts,
    "sample": sample,
    "check": check,
    "check-again": check,
    "first-batch": first_batch,
}
ORDER = [
    ("read", "read the file, keep its columns in the run"),
    ("open", "open in a worker"),
    ("counts", "the same, class counts, repeat factors"),
    ("sample", "the same, and masks of 1,000 drawn images"),
    ("first-batch", f"the same, and {FEW_IMAGES} images with targets"),
    ("check", "check, first call after the read"),
    ("check-again", "check, second call"),
]


def write_data(folder: Path, num_images: int, num_annotations: int, num_classes: int) -> Written:
    """Write annotation files, images, a pool and a config."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    images, pool = folder / "images", folder / "pool"
    images.mkdir()
    pool.mkdir()
    rng = np.random.default_rng(0)
    photograph = Image.fromarray(rng.integers(0, 255, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
    photograph.resize((WIDTH, HEIGHT)).save(pool / "0.jpg", quality=50)
    names = [f"{number:06d}.jpg" for number in range(num_images)]
    for place, name in enumerate(names):
        if place % LINKS == 0:
            photograph.resize((WIDTH, HEIGHT)).save(images / name, quality=50)
        else:
            os.link(images / names[place - place % LINKS], images / name)
    few = max(1, num_images // 1000)
    with open(folder / "few.json", "w") as file:
        write_annotations(file, names[-few:], few * 12, num_classes, rng)
    with open(folder / "labelled.json", "w") as file:
        num_rles = write_annotations(file, names[:-few], num_annotations, num_classes, rng)
    (folder / "config.yaml").write_text(
        "data: {labelled: labelled.json, images: images, calibration: few.json, validation: few.json, pool: pool}\n"
    )
    num_bytes = (folder / "labelled.json").stat().st_size
    return {"images": num_images - few, "annotations": num_annotations, "RLEs": num_rles, "bytes": num_bytes}


def write_annotations(
    file: TextIO, names: list[str], num_annotations: int, num_classes: int, rng: np.random.Generator
) -> int:
    """Write a federated file as a stream, in LVIS's order of lists, and return its number of RLEs."""
    shares = 1 / np.arange(1, num_classes + 1)
    file.write('{"info": {"version": "v1"}, "annotations": [')
    num_rles = 0
    for number, text in enumerate(_annotations(len(names), num_annotations, shares / shares.sum(), rng)):
        file.write(f"{', ' if number else ''}{text}")
        num_rles += '"counts"' in text
    file.write('], "images": [')
    for number, name in enumerate(names):
        negative = rng.choice(num_classes, min(NUM_NEGATIVE, num_classes), replace=False) + 1
        one = {
            "id": number + 1,
            "file_name": name,
            "height": HEIGHT,
            "width": WIDTH,
            "coco_url": f"http://images.cocodataset.org/train2017/{name}",
            "flickr_url": f"http://farm3.staticflickr.com/2720/{number:010d}_f5c22a4d2a_z.jpg",
            "date_captured": "2013-11-14 17:02:52",
            "license": 4,
            "neg_category_ids": negative[2:].tolist(),
            "not_exhaustive_category_ids": negative[:2].tolist() if number % 5 == 0 else [],
        }
        file.write(f"{', ' if number else ''}{json.dumps(one)}")
    categories = [{"id": one + 1, "name": f"class {one}", "frequency": "f"} for one in range(num_classes)]
    file.write(f'], "licenses": [], "categories": {json.dumps(categories)}}}')
    return num_rles


def _annotations(
    num_images: int, num_annotations: int, shares: np.ndarray[Any, Any], rng: np.random.Generator
) -> Iterator[str]:
    """Yield annotations as text. Most outlines are short, a few are long, as in LVIS."""
    for start in range(0, num_annotations, 10_000):
        num = min(10_000, num_annotations - start)
        lengths = np.minimum(4 + rng.exponential(38, num), 1000).astype(int)
        images, classes = rng.integers(1, num_images + 1, num), rng.choice(len(shares), num, p=shares) + 1
        centres, radii = rng.uniform((70, 70), (WIDTH - 70, HEIGHT - 70), (num, 2)), rng.uniform(3, 60, num)
        for place in range(num):
            number = start + place + 1
            angles = np.linspace(0, 2 * np.pi, lengths[place], endpoint=False)
            points = centres[place] + radii[place] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            segmentation: Any = [points.round(2).ravel().tolist()]
            if number % RLE_EVERY == 0:
                top_left, rows = int(left) * HEIGHT + int(top), int(bottom - top) + 1
                counts = [top_left, rows] + [HEIGHT - rows, rows] * (int(right - left))
                segmentation = {"size": [HEIGHT, WIDTH], "counts": [*counts, HEIGHT * WIDTH - sum(counts)]}
            yield json.dumps(
                {
                    "bbox": box,
                    "category_id": int(classes[place]),
                    "image_id": int(images[place]),
                    "id": number,
                    "segmentation": segmentation,
                    "area": round(float(np.pi * radii[place] ** 2), 2),
                }
            )


if __name__ == "__main__":
    main()
