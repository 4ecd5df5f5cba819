"""Runs prepared up to the labels without any training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from raylabel.calibration import Detections, FitContext, calibration_tables, fit_corrector
from raylabel.config import Config, dump_config
from raylabel.files.committing import commit_bytes
from raylabel.files.digests import digest
from raylabel.files.json_files import commit_json
from raylabel.files.tables import commit_table
from raylabel.models.build import build_segmenter
from raylabel.models.saved import save_segmenter
from raylabel.run.classes import commit_classes
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.schema import PROTOTYPES


def prepared_run(config: Config, folder: Path | str) -> RunFolder:
    """Make a run with all that `calibrate` and `label` need.

    The teacher is untrained, the prototypes are orthogonal, and the corrector changes nothing.
    """
    run, data = RunFolder(str(folder)), RunData(config)
    commit_bytes(run.path("config.yaml"), dump_config(config).encode())
    commit_classes(run, data)
    torch.manual_seed(0)
    num_classes = data.labelled.num_classes
    segmenter = build_segmenter(config.teacher.model, num_classes=num_classes)
    save_segmenter(segmenter, run.path("teacher"), {"model": config.teacher.model})
    prototypes = {
        "class_index": np.arange(num_classes, dtype=np.int32),
        "num_instances": np.ones(num_classes, np.int64),
        "embedding": np.eye(num_classes, dtype=np.float32).tolist(),
    }
    commit_table(run.path("prototypes", "prototypes.parquet"), pa.table(prototypes, schema=PROTOTYPES))
    context = FitContext(num_bins=5, frequency_groups=data.frequency_groups, similarity=None, seed=0)
    corrector = fit_corrector("none", Detections.empty(num_classes), context=context)
    commit_json(run.path("calibration", "corrector.json"), corrector.to_json())
    tables = calibration_tables(
        Detections.empty(num_classes),
        corrector=corrector,
        context=context,
        image_ids=[],
        class_names=data.labelled.class_names,
        category_ids=data.labelled.category_ids,
        num_train_images=data.labelled.class_image_counts(),
    )
    commit_table(run.path("calibration", "detections.parquet"), tables.detections)
    commit_table(run.path("calibration", "classes.parquet"), tables.classes)
    for name in ("prototypes", "teacher"):
        run.commit_artifact(name, {"fingerprint": digest(name), "seconds": 0.0})
    split = data.labelled if config.calibration.folds else data.calibration
    run.commit_artifact(
        "calibration", {"fingerprint": digest("calibration"), "seconds": 0.0, "num_split_images": len(split)}
    )
    return run
