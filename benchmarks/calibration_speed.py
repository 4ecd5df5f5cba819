"""Speed and memory of calibration, as ratios to plain code and to hotcoco in the same run.

    python benchmarks/calibration_speed.py [--parts matching binning corrector recalibrate] \
        [--predictions results.json --annotations instances.json]

Each measurement runs in a process of its own. Seconds are the best of a few rounds, in which the candidates take
turns; memory is the peak above what the inputs take (Linux: the kernel's high-water mark, set back before the work).

matching      from results entries in memory to an outcome for each; the annotations are read beforehand, their polygons
              are rasterised within the measured time. Without --predictions on a generated set.
binning       `ReliabilityBins.from_detections` to one bare `np.bincount` for each of the four arrays that bins hold.
corrector     fit and application of one kind (--corrector) on generated detections.
recalibrate   the whole of `raylabel recalibrate RUN --corrector KIND` on a generated run, imports included.
"""

import argparse
import contextlib
import gc
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raylabel.calibration import (
    Detections,
    FitContext,
    ImagePredictions,
    ReliabilityBins,
    bin_of,
    fit_corrector,
    match_set,
)
from raylabel.config import Config, DataConfig, config_dict, dump_config, parse_config
from raylabel.context import CONTEXT_FEATURES
from raylabel.dataset.annotations import AnnotatedSet, read_annotations
from raylabel.labels import shard_uri
from raylabel.masks import Rle, encode_masks
from raylabel.matching import Outcome
from raylabel.schema import LABELS, PROTOTYPES
from raylabel.storage import RunFolder, commit_bytes, commit_json, commit_table
from raylabel.threads import num_cpus

PARTS = ("matching", "binning", "corrector", "recalibrate")
NUM_CLASSES = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--predictions", help="COCO results JSON with masks (with --annotations)")
    parser.add_argument("--annotations", help="COCO JSON")
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 4], help="how often the matched set is repeated")
    parser.add_argument("--detections", type=int, nargs="+", default=[2_500_000, 10_000_000], help="for binning")
    parser.add_argument("--corrector", nargs="+", default=["isotonic"], help="kinds for corrector and recalibrate")
    parser.add_argument("--fit-detections", type=int, nargs="+", default=[250_000, 1_000_000], help="for corrector")
    parser.add_argument("--instances", type=int, nargs="+", default=[250_000, 1_000_000], help="stored, to recalibrate")
    arguments = parser.parse_args()
    if (arguments.predictions is None) != (arguments.annotations is None):
        parser.error("--predictions and --annotations go together")
    print(f"{num_cpus()} CPUs; seconds, in parentheses MiB above the inputs; ratio: of seconds to raylabel's")
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


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def print_table(found: tuple[str, dict[str, tuple[float, float]]]) -> None:
    title, rows = found
    print(f"\n{title}")
    [(_, (own_seconds, _)), *_] = rows.items()
    for name, (seconds, mebibytes) in rows.items():
        print(f"  {name:<58}{seconds:>9.3f} ({mebibytes:>6.0f}){seconds / own_seconds:>8.2f}x", flush=True)


def in_turns(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Best seconds and highest peak in MiB of each candidate."""
    seconds, peaks = dict.fromkeys(candidates, np.inf), dict.fromkeys(candidates, 0.0)
    for _ in range(rounds):
        for name, candidate in candidates.items():
            gc.collect()
            before = reset_peak()
            start = time.perf_counter()
            result = candidate()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            peaks[name] = max(peaks[name], peak_mebibytes() - before)
            del result
    return {name: (seconds[name], peaks[name]) for name in candidates}


def reset_peak() -> float:
    """Set the high-water mark of memory back to what is in use, where the kernel can; the mark, in MiB."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mebibytes()


def peak_mebibytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


# Matching


def matching(
    predictions: str | None, annotations: str | None, repeat: int
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Our matching, a plain loop with pycocotools and hotcoco's evaluator; all must give the same outcomes."""
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
        "the three must agree on every detection"
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
    """Outcomes in the order of the results entries."""
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
    """What one would write with pycocotools: an IoU matrix for each image, or each image and class; then down the
    scores, class by class."""
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
    """The set several times over, as other images."""
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


def generated_set(num_images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images of 480 x 640 with polygons for objects, and rough masks of them and of nothing as detections."""
    rng = np.random.default_rng(0)
    height, width = 480, 640
    rows, columns = np.mgrid[:height, :width]
    images, annotations, results = [], [], []
    for image_id in range(1, num_images + 1):
        images.append({"id": image_id, "file_name": f"{image_id}.jpg", "height": height, "width": width})
        for _ in range(8):
            centre, radii = rng.uniform(60, 420, 2), rng.uniform(15, 90, 2)
            category_id = int(rng.integers(1, NUM_CLASSES + 1))
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            rough = 1 + 0.1 * rng.standard_normal(40)
            x, y = centre[1] + rough * radii[1] * np.cos(angles), centre[0] + rough * radii[0] * np.sin(angles)
            polygon = np.column_stack([x, y]).ravel().clip(0).round(2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": [polygon],
                    "iscrowd": 0,
                }
            )
            for _ in range(4):
                moved, size = centre + rng.normal(0, 15, 2), radii * rng.uniform(0.8, 1.25)
                wave = 1 + 0.1 * np.sin(rng.uniform(0, 0.5) * rows + rng.uniform(0, 0.5) * columns)
                mask = (rows - moved[0]) ** 2 / size[0] ** 2 + (columns - moved[1]) ** 2 / size[1] ** 2 < wave
                [rle] = encode_masks(mask[None])
                detected = category_id if rng.random() < 0.7 else int(rng.integers(1, NUM_CLASSES + 1))
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": detected,
                        "score": round(float(rng.random()), 4),
                        "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    }
                )
    categories = [{"id": one, "name": str(one)} for one in range(1, NUM_CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


# Bins and correctors


def generated_detections(num: int) -> Detections:
    """Overconfident detections of classes of Zipf frequencies, 20 an image."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, NUM_CLASSES + 1)
    scores = rng.beta(0.6, 1.4, num).round(4)
    outcomes = (rng.random(num) < scores**1.5).astype(np.int8)
    outcomes[rng.random(num) < 0.02] = Outcome.IGNORED
    return Detections(
        num_classes=NUM_CLASSES,
        class_indices=rng.choice(NUM_CLASSES, num, p=shares / shares.sum()).astype(np.int32),
        raw_scores=scores,
        image_indices=np.arange(num) // 20,
        outcomes=outcomes,
        weights=np.where(rng.random(num) < 0.9, 1.0, rng.uniform(1, 20, num)),
        context=rng.random((num, len(CONTEXT_FEATURES)), dtype=np.float32),
    )


def generated_context() -> FitContext:
    groups = np.array(["f"] * 20 + ["c"] * 30 + ["r"] * 30)
    return FitContext(num_bins=15, frequency_groups=groups, seed=0)


def binning(num: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """Bins of detections, against the bare passes over arrays that are made beforehand."""
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
    """Fit and application of a corrector."""
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
    return f"corrector {kind} on {num} detections: {num / seconds / 1e6:.1f} million applied a second", rows


# Recalibration


def recalibrate(kind: str, num_instances: int) -> tuple[str, dict[str, tuple[float, float]]]:
    """`raylabel recalibrate` in its own process; its memory is the process's peak, imports included."""
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
    return f"recalibrating {num_instances} stored instances, {num_shards} shards of {size:.0f} MiB in all", rows


def wait_for(process: subprocess.Popen[bytes]) -> tuple[int, int, Any]:
    """Process id, exit status and resource usage of a child, once it has ended."""
    return os.wait4(process.pid, 0)


def generate_run(run: RunFolder, num_instances: int) -> int:
    """A run that is labelled and not corrected, 20 instances an image and 256 images a shard."""
    from raylabel.calibration import scored_accuracy
    from raylabel.pipeline.calibrate import fit_and_commit
    from raylabel.pipeline.label import refresh
    from raylabel.pipeline.pool_histogram import HISTOGRAM_BINS

    groups = generated_context().frequency_groups
    data = DataConfig(labelled="labelled.json", images="images", calibration="c.json", validation="v.json", pool="pool")
    config = parse_config(config_dict(Config(data=data)) | {"calibration": {"corrector": "none"}})
    commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    categories = [
        {"category_id": index + 1, "name": str(index), "frequency_group": str(group), "num_train_images": 50}
        for index, group in enumerate(groups)
    ]
    commit_json(run.path("classes.json"), {"categories": categories, "is_federated": False})
    rng = np.random.default_rng(0)
    embeddings = {
        "class_index": np.arange(NUM_CLASSES, dtype=np.int32),
        "num_instances": np.full(NUM_CLASSES, 50),
        "embedding": rng.standard_normal((NUM_CLASSES, 16)).astype(np.float32).tolist(),
    }
    commit_table(run.path("prototypes", "prototypes.parquet"), pa.table(embeddings, schema=PROTOTYPES))
    masks = generated_masks(rng, 4000)
    lengths = [256 * 20] * (num_instances // (256 * 20))
    lengths += [num_instances % (256 * 20)] if num_instances % (256 * 20) else []
    histogram = ReliabilityBins.zeros(NUM_CLASSES, HISTOGRAM_BINS)
    for shard_id, length in enumerate(lengths):
        shard = generated_shard(rng, length, masks)
        metadata = {"corrector": "none", "shard_id": str(shard_id), "num_instances": str(length)}
        commit_table(shard_uri(run, shard_id), shard.replace_schema_metadata(metadata))
        instances = shard["instances"].combine_chunks().flatten()
        scores = Detections.of_scores(
            instances.field("class_index").to_numpy(), instances.field("raw_score").to_numpy(), num_classes=NUM_CLASSES
        )
        histogram += ReliabilityBins.from_detections(
            replace(scores, outcomes=np.zeros(length, np.int8)), HISTOGRAM_BINS
        )
    commit_table(run.path("labels", "histogram.parquet"), histogram.to_table())

    detections = generated_detections(20_000)
    detections = replace(
        detections,
        context=rng.random((len(detections), len(CONTEXT_FEATURES))).astype(np.float32),
        mask_areas=rng.integers(50, 9000, len(detections)).astype(np.int32),
    )
    image_ids = [str(image) for image in range(1000)]
    tables = fit_and_commit(config, run, detections, image_ids, scored_accuracy(detections))
    run.commit_artifact("teacher", {"fingerprint": "teacher"})
    run.commit_artifact("calibration", {"fingerprint": "calibration", "num_split_images": 1000, **tables})
    counts = {"num_instances": num_instances, "num_images": num_instances // 20, "num_quarantined": 0}
    run.commit_artifact("labels", {"fingerprint": "labels", "inputs": {"teacher": "teacher"}, **counts})
    refresh(config, run)
    return len(lengths)


def generated_masks(rng: np.random.Generator, num: int) -> list[bytes]:
    rows, columns = np.mgrid[:240, :320]
    masks = []
    for _ in range(num):
        (y, x), radii = rng.uniform(60, 180, 2), rng.uniform(8, 60, 2)
        [rle] = encode_masks((((rows - y) / radii[0]) ** 2 + ((columns - x) / radii[1]) ** 2 < 1)[None])
        masks.append(rle["counts"])
    return masks


def generated_shard(rng: np.random.Generator, num: int, masks: list[bytes]) -> pa.Table:
    top_k = 10
    probs = -np.sort(-rng.dirichlet(np.full(top_k + 1, 0.3), num)[:, :top_k], axis=1)
    lists = pa.array(np.arange(num + 1, dtype=np.int32) * top_k)
    columns = {
        "class_index": rng.integers(0, NUM_CLASSES, num).astype(np.int32),
        "raw_score": probs[:, 0].astype(np.float32),
        "calibrated_score": probs[:, 0].astype(np.float32),
        "box_xyxy": pa.FixedSizeListArray.from_arrays(rng.uniform(0, 300, num * 4).astype(np.float32), 4),
        "mask_counts": pa.array(masks, pa.binary()).take(pa.array(rng.integers(0, len(masks), num))),
        "mask_area": rng.integers(50, 9000, num).astype(np.int32),
        "mask_quality": rng.random(num).astype(np.float32),
        "soft_classes": pa.ListArray.from_arrays(lists, rng.integers(0, NUM_CLASSES, num * top_k).astype(np.int32)),
        "soft_probs": pa.ListArray.from_arrays(lists, probs.astype(np.float32).ravel()),
    }
    fields = list(LABELS.field("instances").type.value_type)
    arrays = [
        pa.array(columns[field.name]) if field.name in columns else random_array(rng, field.type, num)
        for field in fields
    ]
    instances = pa.StructArray.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, fields, strict=True)], fields=fields
    )
    num_images = -(-num // 20)
    offsets = np.minimum(np.arange(num_images + 1, dtype=np.int32) * 20, num)
    names = [f"{rng.integers(2**48):012x}.jpg" for _ in range(num_images)]
    return pa.table(
        {
            "image_id": names,
            "uri": [f"pool/{name}" for name in names],
            "height": np.full(num_images, 240, np.int32),
            "width": np.full(num_images, 320, np.int32),
            "status": ["ok"] * num_images,
            "instances": pa.ListArray.from_arrays(pa.array(offsets), instances),
        },
        schema=LABELS,
    )


def random_array(rng: np.random.Generator, kind: pa.DataType, num: int) -> pa.Array:
    """Of a column that other parts of the package add: numbers, or a struct of numbers."""
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([random_array(rng, field.type, num) for field in kind], fields=list(kind))
    return pa.array(rng.random(num)).cast(kind, safe=False)


if __name__ == "__main__":
    main()
