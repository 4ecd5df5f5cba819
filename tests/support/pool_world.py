"""Runs with made-up labels, for tests of code that reads labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raylabel.config import Config, DataConfig, dump_config
from raylabel.files.committing import commit_bytes
from raylabel.files.json_files import commit_json
from raylabel.masks.rle import encode_masks
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import HISTOGRAM_BINS, expected_bins, histogram_to_json
from raylabel.run.labels.rows import InstanceRows
from raylabel.run.labels.shards import commit_shard, is_quarantined
from raylabel.schema import LABELS

SIDE = 16


def write_shard(
    run: RunFolder, shard_id: int, rows: Sequence[dict[str, Any]], *, num_classes: int | None = None
) -> None:
    """Commit rows of `schema.LABELS` as a shard. With `num_classes` it has the counts that a survey sums."""
    table, metadata = pa.Table.from_pylist(list(rows), schema=LABELS), dict[str, Any]()
    if num_classes is not None:
        bins = expected_bins(table, num_classes=num_classes, num_bins=HISTOGRAM_BINS)
        metadata = {
            "corrector": "made up",
            "num_images": len(rows),
            "num_instances": sum(len(row["instances"]) for row in rows),
            "num_quarantined": sum(is_quarantined(row["status"]) for row in rows),
            "num_in_validation": 0,
            "histogram": histogram_to_json(bins.to_table()),
        }
    commit_shard(run, shard_id, table, metadata)


def labelled_row(
    image_id: str,
    uri: str,
    size_hw: tuple[int, int],
    soft_vectors: Any,
    scores: Any,
    masks_NHW: Any,
    quality: Any,
    *,
    top_k: int = 20,
) -> dict[str, Any]:
    """Make the row of a readable image with instances. Boxes are the bounds of the masks."""
    soft = np.array(soft_vectors, np.float32)
    boxes = []
    for mask in masks_NHW:
        columns, rows_of_mask = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        boxes.append([columns[0], rows_of_mask[0], columns[-1] + 1, rows_of_mask[-1] + 1])
    num = len(soft)
    rows = InstanceRows(top_k=min(top_k, soft.shape[1]))
    rows.append(
        Instances(
            image_size_hw=size_hw,
            boxes_xyxy=np.array(boxes, np.float32).reshape(num, 4),
            masks=tuple(encode_masks(masks_NHW)),
            class_indices=soft[:, :-1].argmax(axis=1).astype(np.int32),
            raw_scores=soft[:, :-1].max(axis=1),
            soft_vectors=soft,
            mask_quality=np.broadcast_to(np.float32(quality), num).astype(np.float32),
        )
    )
    [structs] = rows.to_arrow(np.array(scores, np.float32)).to_pylist()
    size = {"height": size_hw[0], "width": size_hw[1]}
    return {"image_id": image_id, "uri": uri, "status": "ok", "instances": structs, **size}


def pool_run(folder: Path, shards: Sequence[Sequence[Sequence[int]]], *, num_classes: int) -> RunFolder:
    """Write a run with one prediction per listed class: shard -> image -> classes.

    Image number n, counted over all shards, has the pixels (n, 0, 0). Each shard also has a quarantined image.
    """
    run, number = RunFolder(str(folder / "run")), 0
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, 2:9, 3:12] = True
    for shard_id, images in enumerate(shards):
        rows: list[dict[str, Any]] = [
            {"image_id": f"bad-{shard_id}", "uri": "", "status": "missing", "height": 0, "width": 0, "instances": []}
        ]
        for classes in images:
            path = folder / "pool" / f"{number}.png"
            pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
            pixels[..., 0] = number
            Image.fromarray(pixels).save(path)
            soft = np.eye(num_classes + 1, dtype=np.float32)[list(classes)].reshape(len(classes), num_classes + 1)
            masks = np.repeat(mask, len(classes), axis=0)
            scores = np.full(len(classes), 0.9)
            rows.append(labelled_row(f"{number}", str(path), (SIDE, SIDE), soft, scores, masks, 0.9))
            number += 1
        write_shard(run, shard_id, rows, num_classes=num_classes)
    return run


def labelled_run(folder: Path, shards: Sequence[Sequence[Sequence[int]]], *, names: Sequence[str]) -> RunFolder:
    """Write a `pool_run` with its classes and its config. The default selection keeps its predictions."""
    run = pool_run(folder, shards, num_classes=len(names))
    categories = [
        {"category_id": index + 1, "name": name, "frequency_group": "f", "num_train_images": 100}
        for index, name in enumerate(names)
    ]
    commit_json(run.path("classes.json"), {"categories": categories, "is_federated": False})
    data = DataConfig(
        labelled="labelled.json", images="images", calibration="calibration.json", validation="val.json", pool="pool"
    )
    commit_bytes(run.path("config.yaml"), dump_config(Config(data=data)).encode())
    return run
