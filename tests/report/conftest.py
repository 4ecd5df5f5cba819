"""A whole run folder with few rows, made without models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raylabel.config import Config, DataConfig, dump_config
from raylabel.files.committing import commit_bytes
from raylabel.files.digests import digest
from raylabel.files.json_files import commit_json
from raylabel.files.tables import commit_table
from raylabel.masks.rle import encode_masks
from raylabel.run.folder import RunFolder
from raylabel.run.labels.shards import shard_uri
from raylabel.schema import ERRORS, LABELS
from small_calibration import GROUPS, NAMES, NUM_TRAIN, fitted_calibration

SIDE = 96


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("run"))


def build_run(folder: Path) -> RunFolder:
    """Make a finished run. The pool's second image is unreadable by now; its last image was quarantined."""
    run = RunFolder(str(folder))
    data = DataConfig(labelled="l.json", images="images", calibration="c.json", validation="v.json", pool="pool")
    commit_bytes(run.path("config.yaml"), dump_config(Config(data=data, out=str(folder))).encode())
    categories = [
        {"category_id": 10 + index, "name": NAMES[index], "frequency_group": GROUPS[index], "num_train_images": count}
        for index, count in enumerate(NUM_TRAIN)
    ]
    commit_json(run.path("classes.json"), {"categories": categories, "is_federated": True})
    _stage(run, "prototypes", {"num_instances": 499}, labelled="l.json")
    _stage(run, "teacher", {"steps": 500}, prototypes="prototypes")
    _calibrate(run)
    _label(run, folder)
    _stage(run, "student", {"steps": 300}, labels="labels")
    for stage, scale in (("teacher", 2.0), ("student", 1.2), ("student/supervised", 1.4)):
        lines = [json.dumps({"step": step, "loss": scale / (1 + step / 50)}) for step in range(1, 200)]
        commit_bytes(run.path(stage, "metrics.jsonl"), "\n".join(lines).encode())
    _evaluate(run)
    return run


def _stage(run: RunFolder, folder: str, content: dict[str, Any], **inputs: Any) -> None:
    common = {
        "stage": folder,
        "fingerprint": digest(folder),
        "inputs": {name: digest(value) for name, value in inputs.items()} | {"seed": 0},
        "created": "2026-01-02T03:04:05Z",
        "seconds": 71.5,
        "versions": {"python": "3.11"},
    }
    run.commit_artifact(folder, common | content)


def _calibrate(run: RunFolder) -> None:
    tables, corrector = fitted_calibration()
    for name in ("detections", "bins", "classes"):
        commit_table(run.path("calibration", f"{name}.parquet"), getattr(tables, name))
    held_out_bins = tables.cross_validated_bins.to_table()
    commit_table(run.path("calibration", "bins_cross_validated.parquet"), held_out_bins)
    commit_json(run.path("calibration", "corrector.json"), corrector.to_json())
    _stage(run, "calibration", tables.summary, teacher="teacher")


def _label(run: RunFolder, folder: Path) -> None:
    (folder / "pool").mkdir()
    rng = np.random.default_rng(1)
    rows = []
    for index in range(6):
        uri = str(folder / "pool" / f"{index}.png")
        pixels, instances = _scene(rng)
        if index != 1:
            Image.fromarray(pixels).save(uri)
        rows.append(_row(f"<b>{index}</b>.png", uri, instances))
    rows.append(_row("bad.png", "pool/bad.png", [], status="zero bytes"))
    for shard_id, part in enumerate((rows[:4], rows[4:])):
        commit_table(shard_uri(run, shard_id), pa.Table.from_pylist(part, schema=LABELS))
    bad = [{"image_id": "bad.png", "uri": "pool/bad.png", "reason": "zero bytes"}]
    commit_table(run.path("labels", "errors.parquet"), pa.Table.from_pylist(bad, schema=ERRORS))
    selection = {
        "kept": 12,
        "kept_by_group": {"r": 4, "c": 2, "f": 6},
        "dropped": {"score": 6, "mask_quality": 0, "area": 0, "max_per_image": 0},
    }
    content = {"num_images": 7, "num_instances": 18, "num_quarantined": 1, "corrector": "temperature"}
    _stage(run, "labels", content | {"selection": selection}, teacher="teacher")


def _row(image_id: str, uri: str, instances: list[dict[str, Any]], status: str = "ok") -> dict[str, Any]:
    side = SIDE if status == "ok" else 0
    return {
        "image_id": image_id,
        "uri": uri,
        "height": side,
        "width": side,
        "status": status,
        "instances": instances,
    }


def _scene(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw three discs on grey. Selection keeps the first two; the last one has a low score."""
    pixels = np.full((SIDE, SIDE, 3), 110, np.uint8) + rng.integers(0, 30, (SIDE, SIDE, 1)).astype(np.uint8)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    instances = []
    for number in range(3):
        x, y, radius = [*rng.integers(20, SIDE - 20, 2).tolist(), int(rng.integers(8, 18))]
        mask = (xs - x) ** 2 + (ys - y) ** 2 <= radius**2
        pixels[mask] = rng.integers(40, 255, 3)
        class_index = int(rng.integers(0, 5))
        calibrated_score = 0.9 - 0.3 * number
        instances.append(
            {
                "class_index": class_index,
                "raw_score": 0.97 - 0.1 * number,
                "calibrated_score": calibrated_score,
                "box_xyxy": [float(x - radius), float(y - radius), float(x + radius + 1), float(y + radius + 1)],
                "mask_counts": encode_masks(mask[None])[0]["counts"],
                "mask_area": int(mask.sum()),
                "mask_quality": 0.9,
                "soft_classes": [class_index, 5],
                "soft_probs": [0.8, 0.2],
            }
        )
    return pixels, instances


def _evaluate(run: RunFolder) -> None:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300")

    def figures(base: float) -> dict[str, Any]:
        return {name: base + 0.01 * index for index, name in enumerate(names)} | {"APl": None}

    raw = {"ece": 0.141, "nll": 0.83, "ccece": 0.2, "ccece_by_group": {"all": 0.2, "r": 0.31, "c": 0.22, "f": 0.1}}
    calibrated = {"ece": 0.042, "nll": 0.61, "ccece": 0.12} | {
        "ccece_by_group": {"all": 0.12, "r": 0.2, "c": None, "f": 0.05}
    }
    pool = {"num_images": 6, "num_instances": 18, "num_objects": 20, "raw": raw, "calibrated": calibrated}
    pool["selected"] = {"num": 12, "precision": 0.75, "recall": 0.45}
    arms = {"teacher": 0.35, "student": 0.372, "supervised": 0.381, "student+corrector": 0.371}
    validation = {arm: figures(base) for arm, base in arms.items()}
    half_widths = {arm: {"AP": 0.021, "APr": 0.043} for arm in arms}
    of_models = {
        "teacher": {"AP": {"value": -0.031, "half_width": 0.0124}, "APr": {"value": -0.031, "half_width": 0.05}},
        "student": {"AP": {"value": -0.009, "half_width": 0.0111}},
    }
    all_labels = {"labelled": 210, "calibration": 30, "steps": 3100}
    metrics = {
        "learnt_from": {
            "teacher": {"labelled": 210, "calibration": 0, "pool": 0, "steps": 2500},
            "supervised": all_labels | {"pool": 0},
            "student": all_labels | {"pool": 6},
        },
        "validation": validation,
        "validation_half_widths": half_widths,
        "validation_differences": {"from": "supervised", "models": of_models},
        "pool": pool,
    }
    commit_json(run.path("evaluation", "metrics.json"), metrics)
    _stage(run, "evaluation", {"num_images": 30}, teacher="teacher", student="student")
