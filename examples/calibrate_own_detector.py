"""Calibrate the scores of your own detector: fit a corrector to a results file, and apply it.

    python examples/calibrate_own_detector.py --predictions RESULTS.json --annotations GT.json --out FOLDER

Results are a COCO or LVIS results file with masks as RLE; annotations are the ground truth of the same images. Without
arguments the script makes both: a detector that is too sure of itself, in a temporary folder.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import raylabel as rl

SIDE = 32


def make_files(folder: Path, *, num_images: int = 60, seed: int = 0) -> tuple[Path, Path]:
    """Write results and annotations of a detector whose score is much higher than its accuracy."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]
    images, annotations, results = [], [], []
    for image_id in range(num_images):
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": SIDE, "width": SIDE})
        for corner in (0, 8, 16, 24):
            masks = np.zeros((1, SIDE, SIDE), dtype=bool)
            masks[0, corner : corner + 6, corner : corner + 6] = True
            [rle] = rl.encode_masks(masks)
            one = {
                "image_id": image_id,
                "category_id": int(rng.integers(1, 3)),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
            score = float(rng.uniform(0.3, 1))
            results.append(one | {"score": score})
            if rng.random() < score**3:  # the prediction is right
                box = {"bbox": [corner, corner, 6, 6], "area": 36, "iscrowd": 0}
                annotations.append(one | box | {"id": len(annotations) + 1})
    truth = {"images": images, "annotations": annotations, "categories": categories}
    predictions_path, annotations_path = folder / "results.json", folder / "annotations.json"
    predictions_path.write_text(json.dumps(results))
    annotations_path.write_text(json.dumps(truth))
    return predictions_path, annotations_path


def calibrate(predictions: str, annotations: str, out: str) -> None:
    """Fit a corrector, write the corrected results, and print CCECE before and after."""
    summary = rl.calibrate_results(predictions, annotations, out)
    before, after = summary["raw"], summary["calibrated_cross_validated"]
    print(f"{summary['num_detections']} detections, corrector: {summary['corrector_chosen']}")
    print(f"CCECE before: {before['ccece']['all']:.3f}")
    print(f"CCECE after:  {after['ccece']['all']:.3f} (cross-validated by image)")
    rl.correct_results(str(Path(out) / "corrector.json"), predictions, str(Path(out) / "corrected.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", help="COCO or LVIS results JSON")
    parser.add_argument("--annotations", help="its ground truth")
    parser.add_argument("--out", default="calibration", help="folder to write (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.predictions and arguments.annotations:
        calibrate(arguments.predictions, arguments.annotations, arguments.out)
        print(f"written to {arguments.out}: corrected.json, calibration.html, corrector.json and tables")
    elif arguments.predictions or arguments.annotations:
        parser.error("give --predictions and --annotations, or neither")
    else:
        with tempfile.TemporaryDirectory() as folder:
            predictions, annotations = make_files(Path(folder))
            calibrate(str(predictions), str(annotations), folder)


if __name__ == "__main__":
    main()
