"""A small results file with its truth, and correctors of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raylabel.external import calibrate_results
from raylabel.files.json_files import read_json
from raylabel.masks.rle import encode_masks

SIZE = 16
Files = tuple[str, str, list[dict[str, Any]]]


def rle(row: int, column: int, side: int, size: int = SIZE) -> dict[str, Any]:
    mask = np.zeros((1, size, size), dtype=bool)
    mask[0, row : row + side, column : column + side] = True
    encoded = encode_masks(mask)[0]
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def write_files(folder: Path, num_images: int = 12) -> Files:
    """Write images with one object of class 3 each. The detector finds it (0.9), with a false alarm (0.4)."""
    truth = {
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "height": SIZE, "width": SIZE} for image in range(num_images)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": image + 1, "image_id": image, "category_id": 3, "iscrowd": 0, "area": 36}
            | {"bbox": [0, 0, 6, 6], "segmentation": rle(0, 0, 6)}
            for image in range(num_images)
        ],
    }
    results = [
        {
            "image_id": image,
            "category_id": 3,
            "score": score,
            "bbox": [0, 0, 6, 6],
            "segmentation": rle(place, place, 6),
        }
        | {"note": f"{image}/{place}"}
        for image in range(num_images)
        for place, score in ((0, 0.9), (9, 0.4))
    ]
    annotations, predictions = folder / "truth.json", folder / "results.json"
    annotations.write_text(json.dumps(truth))
    predictions.write_text(json.dumps(results))
    return str(predictions), str(annotations), results


def edited(corrector: str | Path, **changes: Any) -> dict[str, Any]:
    """Return the content of a corrector.json with changes, as one that states no digest."""
    content: dict[str, Any] = read_json(str(corrector)) | changes
    return {name: value for name, value in content.items() if name != "digest"}


def contextual(files: Files, folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Fit a contextual corrector that uses its model alone; return its path and the entries of the small files."""
    predictions, annotations, results = files
    calibrate_results(predictions, annotations, str(folder / "out"), corrector="contextual")
    path = folder / "out" / "corrector.json"
    path.write_text(json.dumps(edited(path, share=1.0)))
    return str(path), results


MODEL_FIELDS = {"mask_quality": 0.75, "background": 0.125, "runner_up": 0.0625}
