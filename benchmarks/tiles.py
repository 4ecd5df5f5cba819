"""Do tiles find small objects in large images? Mosaics of a run's validation images, predicted whole and in tiles.

    python benchmarks/tiles.py RUN [--columns 6] [--rows 4] [--size 64]

RUN is a finished run whose validation images have one size. Each mosaic has `rows x columns` of them, its neighbours
without a gap. The student predicts every mosaic whole at its own size, whole but shrunk so that its short side is
`--size` (what `min_size` does to an image that is larger than what the model learnt from), and in tiles. AP by COCO's
protocol, with paired 95% intervals over mosaics. All figures are of raw scores.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raylabel.cluster.predictor import Predictor
from raylabel.config import LabelConfig, TileConfig
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.images import read_image
from raylabel.evaluation.average_precision import MIN_RESULT_SCORE, results_of_image
from raylabel.evaluation.precision_intervals import jackknife_results, precision_intervals
from raylabel.masks.decode_boxes import decode_boxes
from raylabel.masks.encode_boxes import encode_boxes
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.predictions.instances import Instances
from raylabel.run.classes import load_classes
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.run.models import STUDENT

SHOWN = ("AP", "AP50", "APs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--overlap", type=float, default=0.25)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder(arguments.run)
    ways: dict[str, tuple[int | None, TileConfig | None]] = {
        "whole, shrunk": (arguments.size, None),
        "whole": (None, None),
        **{
            f"tiles of {side}": (None, TileConfig(size=side, overlap=arguments.overlap))
            for side in (arguments.size, 2 * arguments.size)
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        truth, paths = write_mosaics(run, Path(folder), arguments.rows, arguments.columns)
        found = {}
        for name, (min_size, tile) in ways.items():
            start = time.process_time()
            results = predict(run, Path(folder), paths, min_size, tile)
            seconds = time.process_time() - start
            found[name] = jackknife_results(truth, results)
            print(
                f"{name:<16} {len(results):6d} results, {1000 * seconds / len(paths):6.0f} ms of CPU a mosaic",
                flush=True,
            )
    print(f"\n{len(paths)} mosaics of {arguments.rows} x {arguments.columns} images")
    print(f"{'':<16}" + "".join(f"{name:>8}" for name in SHOWN) + f"{'AP minus whole, shrunk':>26}")
    for name, measured in found.items():
        gap = precision_intervals(measured, found["whole, shrunk"])["AP"]
        figures = "".join(f"{100 * (measured.figures[one] or np.nan):8.1f}" for one in SHOWN)
        print(f"{name:<16}{figures}{100 * gap.value:+17.1f} ± {100 * gap.half_width:.1f}")


def write_mosaics(run: RunFolder, folder: Path, rows: int, columns: int) -> tuple[dict[str, Any], list[Path]]:
    """Write mosaics of the validation images. Return their annotations in COCO form, and their files."""
    config = load_run_config(run)
    data = RunData(config, run)
    validation = data.validation
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    paths = []
    per_mosaic = rows * columns
    for first in range(0, len(validation) - per_mosaic + 1, per_mosaic):
        mosaic: list[Any] = []
        for place in range(per_mosaic):
            record = validation.images[first + place]
            mosaic.append(read_image(record.uri, max_pixels=config.data.max_image_pixels))
        height, width = mosaic[0].shape[:2]
        pixels = np.concatenate(
            [np.concatenate(mosaic[row * columns : (row + 1) * columns], axis=1) for row in range(rows)], axis=0
        )
        size_hw = (rows * height, columns * width)
        images.append({"id": len(images) + 1, "file_name": f"{first}.png", "height": size_hw[0], "width": size_hw[1]})
        for place in range(per_mosaic):
            objects = validation.ground_truth(first + place)
            masks, corners = decode_boxes(objects.masks)
            top, left = place // columns * height, place % columns * width
            placed = encode_boxes(masks, [(top + y, left + x) for y, x in corners], size_hw)
            for mask, (y, x), inside, class_index in zip(placed, corners, masks, objects.class_indices, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": len(images),
                        "category_id": int(validation.category_ids[class_index]),
                        "segmentation": {"size": list(size_hw), "counts": mask["counts"].decode()},
                        "bbox": [left + x, top + y, inside.shape[1], inside.shape[0]],
                        "area": int(inside.sum()),
                        "iscrowd": 0,
                    }
                )
        paths.append(folder / f"{first}.png")
        Image.fromarray(pixels).save(paths[-1])
    categories = [{"id": one.category_id, "name": one.name} for one in validation.categories]
    return json.loads(json.dumps({"images": images, "annotations": annotations, "categories": categories})), paths


def predict(
    run: RunFolder, folder: Path, paths: list[Path], min_size: int | None, tile: TileConfig | None
) -> list[dict[str, Any]]:
    """Predict the mosaics with the run's student."""
    own_classes = load_run_config(run).own_classes
    segmenter, description = load_segmenter(run.path(STUDENT), own_classes)
    model = folder / f"model-{min_size}"
    save_segmenter(segmenter, str(model), {**description, "min_size": min_size})
    label = LabelConfig(score_threshold=MIN_RESULT_SCORE, max_per_image=300, batch_size=8, tile=tile)
    predictor = Predictor(str(model), label, max_pixels=10**9, own_classes=own_classes)
    classes = load_classes(run)
    results: list[dict[str, Any]] = []
    for number, found in enumerate(predictor([ImageSource(str(path)) for path in paths]), start=1):
        assert isinstance(found, Instances), found
        results += results_of_image(number, found.masks, found.soft_vectors, classes.category_ids)
    return results


if __name__ == "__main__":
    main()
