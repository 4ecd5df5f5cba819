"""Measure what streaming the pool into a training costs, and whether its memory stays flat.

    PYTHONPATH=benchmarks:tests/support python benchmarks/pool_streaming.py [--images 100000 1000000]

It writes label shards of --images images that share a few files: 256 images per shard, 5 predictions per image, 20
stored entries per soft vector. `index` indexes them, as `distill` does before training. `stream` reads --draws images
with their targets, as a training worker does, by repeat factors and without augmentation. Every measurement runs in its
own process. Memory is its peak above the use before.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from labelling_scale import isolated, peak_mib
from pool_world import labelled_row
from raylabel.config import SelectionConfig
from raylabel.files.tables import commit_table, read_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import committed_shards, shard_uri
from raylabel.schema import LABELS
from raylabel.training.augment.views import no_augmentation
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.index import PoolIndex, index_pool
from raylabel.training.pool.stream import PoolStream
from raylabel.training.pool.targets import PoolTargets

SHARD, SIDE, NUM_CLASSES, NUM_PREDICTIONS, THRESHOLD = 256, 96, 100, 5, 0.1
CHOICE = PoolChoice(selection=SelectionConfig(min_score=0.3), frequency_groups=np.array(["f"] * NUM_CLASSES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--draws", type=int, default=20_000)
    arguments = parser.parse_args()
    for num_images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            isolated(write_labels, folder, num_images)
            for name, work, extra in (("index", index, []), ("stream", stream, [arguments.draws])):
                figures = isolated(work, folder, *extra)
                text = ", ".join(f"{key} {value:,.5g}" for key, value in figures.items())
                print(f"{name} {num_images:,}: {text}", flush=True)


def write_labels(where: str, num_images: int) -> None:
    """Write label shards that repeat 16 images and 16 shards of predictions."""
    folder, rng = Path(where), np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    masks = np.zeros((NUM_PREDICTIONS, SIDE, SIDE), bool)
    for mask in masks:
        top, left = rng.integers(0, SIDE // 2, 2)
        mask[top : top + SIDE // 2, left : left + SIDE // 2] = True
    run, classes = RunFolder(str(folder / "run")), 1 / np.arange(1, NUM_CLASSES + 2)
    tables = []
    for _ in range(16):
        rows = [
            labelled_row(
                str(place),
                str(folder / f"{place % 16}.png"),
                (SIDE, SIDE),
                rng.dirichlet(classes, NUM_PREDICTIONS),
                rng.random(NUM_PREDICTIONS),
                masks,
                0.9,
            )
            for place in range(SHARD)
        ]
        tables.append(pa.Table.from_pylist(rows, schema=LABELS))
    for shard_id in range(-(-num_images // SHARD)):
        commit_table(shard_uri(run, shard_id), tables[shard_id % 16].slice(0, num_images - shard_id * SHARD))


def index(folder: str) -> dict[str, float]:
    run = RunFolder(str(Path(folder) / "run"))
    before, start = peak_mib(), time.perf_counter()
    table = index_pool(committed_shards(run), CHOICE, threshold=THRESHOLD)
    seconds, peak = time.perf_counter() - start, peak_mib() - before
    commit_table(run.path("index.parquet"), table)
    num_images = int(table["num_images"].to_numpy().sum())
    return {"seconds": seconds, "images/s": num_images / seconds, "MiB": peak}


def stream(folder: str, num_draws: int) -> dict[str, float]:
    run = RunFolder(str(Path(folder) / "run"))
    before = peak_mib()
    table = read_table(run.path("index.parquet"))
    found = PoolStream(
        run,
        PoolIndex.from_table(table),
        CHOICE,
        PoolTargets(),
        seed=0,
        max_pixels=10**6,
        augment=no_augmentation,
    )
    rng, start = np.random.default_rng(0), time.perf_counter()
    for draw in range(num_draws):
        found.load(draw, rng)
    seconds = time.perf_counter() - start
    return {"images/s": num_draws / seconds, "MiB": peak_mib() - before}


if __name__ == "__main__":
    main()
