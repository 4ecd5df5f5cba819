"""Generated inputs for speed benchmarks: a set with results, detections, and a labelled run."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.calibration import Detections, FitContext, ReliabilityBins
from raylabel.config import Config, DataConfig, config_dict, dump_config, parse_config
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.files.tables import commit_table
from raylabel.masks.rle import encode_masks
from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.predictions.matching import Outcome
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import shard_uri
from raylabel.schema import LABELS, PROTOTYPES

NUM_CLASSES = 80


def generated_set(num_images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Generate images of 480 x 640 with polygons as objects, and rough masks as detections."""
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


def generated_detections(num: int) -> Detections:
    """Generate overconfident detections, 20 per image, whose classes have Zipf frequencies."""
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


def generate_run(run: RunFolder, num_instances: int) -> int:
    """Write a labelled, uncorrected run: 20 instances per image, 256 images per shard. Returns the number of shards."""
    from raylabel.calibration import scored_accuracy
    from raylabel.run.calibration import fit_and_commit
    from raylabel.run.labels.histograms import HISTOGRAM_BINS
    from raylabel.stages.label import apply_later

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
    tables = fit_and_commit(
        run, config.calibration, detections, image_ids, scored_accuracy(detections), seed=config.seed
    )
    run.commit_artifact("teacher", {"fingerprint": "teacher"})
    run.commit_artifact("calibration", {"fingerprint": "calibration", "num_split_images": 1000, **tables})
    counts = {"num_instances": num_instances, "num_images": num_instances // 20, "num_quarantined": 0}
    apply_later(config, run, {"fingerprint": "labels", "inputs": {"teacher": "teacher"}, **counts})
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
            "as_stored": [False] * num_images,
            "status": ["ok"] * num_images,
            "instances": pa.ListArray.from_arrays(pa.array(offsets), instances),
        },
        schema=LABELS,
    )


def random_array(rng: np.random.Generator, kind: pa.DataType, num: int) -> pa.Array:
    """Fill a column of any other numeric type, or of a struct of such types, with random values."""
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([random_array(rng, field.type, num) for field in kind], fields=list(kind))
    return pa.array(rng.random(num)).cast(kind, safe=False)
