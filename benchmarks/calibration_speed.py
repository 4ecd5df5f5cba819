"""Measure speed and memory of calibration, beside plain code and hotcoco in the same run.

    python benchmarks/calibration_speed.py [--parts matching binning corrector recalibrate] \
        [--predictions results.json --annotations instances.json]

Each measurement runs in its own process. Seconds are the best of a few rounds in which the candidates take turns.
Memory is the peak above the memory of the inputs (on Linux the kernel's high-water mark, reset before the work).

matching      from results entries in memory to one outcome per entry. Annotations are read beforehand, but their
              polygons are rasterised within the measured time. Without --predictions it uses a generated set.
binning       `ReliabilityBins.from_detections` beside one bare `np.bincount` per array, for the four arrays of bins.
corrector     fit and application of one kind (--corrector) on generated detections.
recalibrate   all of `raylabel recalibrate RUN --corrector KIND` on a generated run, including imports.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from generated_input import NUM_CLASSES, generate_run, generated_context, generated_detections, generated_set
from raylabel.calibration import ImagePredictions, ReliabilityBins, fit_corrector, match_set
from raylabel.calibration.bins import bin_of
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.masks.rle import Rle
from raylabel.predictions.matching import Outcome
from raylabel.run.folder import RunFolder
from raylabel.threads import num_cpus
from side_by_side import in_turns, isolated, print_table

PARTS = ("matching", "binning", "corrector", "recalibrate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--predictions", help="COCO results JSON with masks (with --annotations)")
    parser.add_argument("--annotations", help="COCO JSON")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 4], help="number of copies of the matched set")
    parser.add_argument(
        "--detections", type=int, nargs="+", default=[2_500_000, 10_000_000], help="detections for binning"
    )
    parser.add_argument("--corrector", nargs="+", default=["isotonic"], help="kinds for corrector and recalibrate")
    parser.add_argument(
        "--fit-detections", type=int, nargs="+", default=[250_000, 1_000_000], help="detections for corrector"
    )
    parser.add_argument(
        "--instances", type=int, nargs="+", default=[250_000, 1_000_000], help="stored instances, for recalibrate"
    )
    arguments = parser.parse_args()
    if (arguments.predictions is None) != (arguments.annotations is None):
        parser.error("--predictions and --annotations go together")
    print(f"{num_cpus()} CPUs; seconds (MiB above the inputs); ratio of seconds to those of raylabel")
    if "matching" in arguments.parts:
        for repeat in arguments.repeat:
            print_table(isolated(matching, arguments.predictions, arguments.annotations, repeat))
    if "binning" in arguments.parts:
        for num in arguments.detections:
            print_table(isolated(binning, num))
    if "corrector" in arguments.parts:
        for kind in arguments.corrector:
            for num in arguments.fit_detections:
                print_table(isolated(corrector, kind, num))
    if "recalibrate" in arguments.parts:
        for num in arguments.instances:
            for kind in arguments.corrector:
                print_table(recalibrate(kind, num))


# Matching


def matching(
    predictions: str | None, annotations: str | None, repeat: int
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Time our matching, a plain loop with pycocotools, and hotcoco. All must give the same outcomes."""
    import hotcoco

    if predictions is None or annotations is None:
        content, results = generated_set(300)
    else:
        content, results = json.loads(Path(annotations).read_text()), json.loads(Path(predictions).read_text())
    content, results = repeated(content, results, repeat)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "annotations.json")
        path.write_text(json.dumps(content))
        annotated = read_annotations(str(path))
        hotcoco_truth = hotcoco.COCO(str(path))
        with contextlib.redirect_stdout(io.StringIO()):
            pycocotools_truth = COCO(str(path))

    def cocoeval() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(pycocotools_truth, pycocotools_truth.loadRes([dict(one) for one in results]), "segm")
            evaluation.params.iouThrs, evaluation.params.maxDets = np.array([0.5]), [1_000_000]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[-1e10, 1e10]], ["all"]
            evaluation.evaluate()
        return evaluation.evalImgs

    def evaluator() -> Any:
        evaluation = hotcoco.COCOeval(hotcoco_truth, hotcoco_results, "segm")
        evaluation.params.iou_thrs, evaluation.params.max_dets = [0.5], [1_000_000]
        evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[-1e10, 1e10]], ["all"]
        return evaluation

    def hotcoco_outcomes() -> list[int]:
        nonlocal hotcoco_results
        hotcoco_results = hotcoco_truth.load_res(results)
        evaluation = evaluator()
        evaluation.evaluate()
        outcomes = [int(Outcome.INCORRECT)] * len(results)
        for image in evaluation.eval_imgs:
            if image is not None:
                for result_id, matched, ignored in zip(
                    image["dtIds"], image["dtMatched"][0], image["dtIgnore"][0], strict=True
                ):
                    outcomes[result_id - 1] = Outcome.IGNORED if ignored else int(matched)
        return outcomes

    hotcoco_results = hotcoco_truth.load_res(results)
    ours, plain, theirs = (
        match_entries(annotated, results),
        plain_loop(content, results, by_class=True),
        hotcoco_outcomes(),
    )
    assert ours == plain == theirs == plain_loop(content, results, by_class=False), (
        "the three implementations must agree on every detection"
    )
    rows = in_turns(
        {
            "raylabel match_set": lambda: match_entries(annotated, results),
            "pycocotools COCOeval.evaluate": cocoeval,
            "pycocotools mask.iou, image by image": lambda: plain_loop(content, results, by_class=False),
            "pycocotools mask.iou, image by image and class by class": lambda: plain_loop(
                content, results, by_class=True
            ),
            "hotcoco load_res, evaluate, eval_imgs": hotcoco_outcomes,
            "hotcoco evaluate alone, without outcomes": lambda: evaluator().evaluate(),
        },
        rounds=7,
    )
    num_objects = len(content["annotations"])
    return f"matching {len(results)} detections to {num_objects} objects in {len(annotated)} images", rows


def match_entries(annotated: AnnotatedSet, results: list[dict[str, Any]]) -> list[int]:
    """Match results entries. Returns one outcome per entry, in their order."""
    row_of = {image.image_id: row for row, image in enumerate(annotated.images)}
    rows = np.array([row_of[one["image_id"]] for one in results])
    classes = np.array([annotated.class_index_of[one["category_id"]] for one in results])
    scores = np.array([one["score"] for one in results])
    masks = [rle_of(one["segmentation"]) for one in results]
    order = np.argsort(rows, kind="stable")
    predicted, starts = np.unique(rows[order], return_index=True)
    predictions = {
        row: ImagePredictions(classes[chosen], scores[chosen], [masks[entry] for entry in chosen.tolist()])
        for row, chosen in zip(predicted.tolist(), np.split(order, starts[1:]), strict=True)
    }
    outcomes = np.empty(len(results), np.int8)
    outcomes[order] = match_set(annotated, predictions, with_context=False).known_outcomes
    return outcomes.tolist()


def rle_of(segmentation: dict[str, Any]) -> Rle:
    return {"size": segmentation["size"], "counts": segmentation["counts"].encode()}


def plain_loop(content: dict[str, Any], results: list[dict[str, Any]], *, by_class: bool) -> list[int]:
    """Match as plain code with pycocotools would: one IoU matrix per image, or per image and class.

    Detections of a class are then matched in order of falling score.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    objects, detections = defaultdict[Any, list[Any]](list), defaultdict[Any, list[int]](list)
    for one in content["annotations"]:
        objects[one["image_id"], one["category_id"] if by_class else None].append(one)
    for entry, one in enumerate(results):
        detections[one["image_id"], one["category_id"] if by_class else None].append(entry)
    outcomes = [int(Outcome.INCORRECT)] * len(results)
    for key, entries in detections.items():
        same = sorted(objects.get(key, []), key=lambda one: one["iscrowd"])
        entries.sort(key=lambda entry: -results[entry]["score"])
        is_crowd = [one["iscrowd"] for one in same]
        masks = [rasterised(one["segmentation"], *sizes[key[0]]) for one in same]
        iou = coco_mask.iou([results[entry]["segmentation"] for entry in entries], masks, is_crowd)
        taken = set[int]()
        for row, entry in enumerate(entries):
            best, chosen = 0.5, -1
            for column, (other, crowd) in enumerate(zip(same, is_crowd, strict=True)):
                if column in taken or other["category_id"] != results[entry]["category_id"]:
                    continue
                if chosen >= 0 and crowd and not is_crowd[chosen]:
                    break
                if iou[row][column] >= best:
                    best, chosen = iou[row][column], column
            if chosen >= 0:
                outcomes[entry] = int(Outcome.IGNORED if is_crowd[chosen] else Outcome.CORRECT)
                if not is_crowd[chosen]:
                    taken.add(chosen)
    return outcomes


def rasterised(segmentation: Any, height: int, width: int) -> Any:
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, height, width)
    return segmentation


def repeated(
    content: dict[str, Any], results: list[dict[str, Any]], repeat: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Repeat the set as other images."""
    number_of = {image["id"]: number for number, image in enumerate(content["images"])}
    num = len(number_of)
    images, annotations, found = [], [], []
    for turn in range(repeat):
        images += [image | {"id": 1 + turn * num + number_of[image["id"]]} for image in content["images"]]
        for one in content["annotations"]:
            image_id = 1 + turn * num + number_of[one["image_id"]]
            annotations.append(one | {"id": len(annotations) + 1, "image_id": image_id})
        found += [one | {"image_id": 1 + turn * num + number_of[one["image_id"]]} for one in results]
    return {"images": images, "annotations": annotations, "categories": content["categories"]}, found


# Bins and correctors


def binning(num: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """Time the binning of detections, beside bare passes over prepared arrays."""
    detections, num_bins = generated_detections(num), 15
    weights = detections.weights
    cells = detections.class_indices.astype(np.int64) * num_bins + bin_of(detections.raw_scores, num_bins)
    arrays = [
        weights * detections.is_scored,
        weights * detections.is_scored * detections.raw_scores,
        weights * detections.is_correct,
        weights * ~detections.is_scored,
    ]
    rows = in_turns(
        {
            "raylabel ReliabilityBins.from_detections": lambda: ReliabilityBins.from_detections(detections, num_bins),
            "np.bincount of 4 arrays, cells known": lambda: [
                np.bincount(cells, values, NUM_CLASSES * num_bins) for values in arrays
            ],
        },
        rounds=5,
    )
    return f"binning {num} detections, {NUM_CLASSES} classes x {num_bins} bins", rows


def corrector(kind: str, num: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """Time fit and application of a corrector."""
    detections, context = generated_detections(num), generated_context()
    fitted = fit_corrector(kind, detections, context=context)
    rows = in_turns(
        {
            f"apply {kind}": lambda: fitted(detections),
            f"fit {kind}": lambda: fit_corrector(kind, detections, context=context),
        },
        rounds=2,
    )
    seconds, _ = rows[f"apply {kind}"]
    return f"corrector {kind} on {num} detections: {num / seconds / 1e6:.1f} million applied per second", rows


# Recalibration


def recalibrate(kind: str, num_instances: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """Time `raylabel recalibrate` in its own process. Memory is the peak of that process, including imports."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(str(Path(folder, "run")))
        num_shards = isolated(generate_run, run, num_instances)
        size = sum(path.stat().st_size for path in Path(run.uri, "labels").iterdir()) / 1024**2
        rows = {}
        for name, command in {
            f"raylabel recalibrate RUN --corrector {kind}": [kind],
            "the same again: nothing to rewrite": [kind],
        }.items():
            start = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "raylabel.cli", "recalibrate", run.uri, "--corrector", *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            _, status, usage = wait_for(process)
            assert status == 0, "recalibrate failed"
            rows[name] = (time.perf_counter() - start, usage.ru_maxrss / 1024)
    return f"recalibrating {num_instances} stored instances, {num_shards} shards, {size:.0f} MiB in total", rows


def wait_for(process: subprocess.Popen[bytes]) -> tuple[int, int, Any]:
    """Wait for a child to end. Returns its process id, exit status and resource usage."""
    return os.wait4(process.pid, 0)


if __name__ == "__main__":
    main()
