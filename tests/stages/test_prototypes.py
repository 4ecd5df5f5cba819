"""Prototypes from the features of any model, for any teacher."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from raylabel.config import config_dict, load_config
from raylabel.errors import InputError
from raylabel.files.tables import commit_table
from raylabel.models.build import build_segmenter
from raylabel.models.rcnn.tiny_maskrcnn import TinyBody
from raylabel.models.saved import save_segmenter
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.schema import PROTOTYPES
from raylabel.smoothing import PrototypeSums
from raylabel.stages.check import check_run
from raylabel.stages.prototypes import EmbedShard
from raylabel.stages.training_jobs import teacher_job, warmup_steps

EMBEDDER = "maskrcnn_mobilenet_v3_large_fpn"
EMBEDDING_SIZE = 1024


@pytest.fixture
def config_file(generated: Path, tmp_path: Path) -> Path:
    """Config with a tiny teacher, and an embedder of another family with other classes."""
    torch.manual_seed(0)
    save_segmenter(build_segmenter(EMBEDDER, num_classes=3), str(tmp_path / "embedder"), {"model": EMBEDDER})
    path = generated / "embedder.yaml"
    path.write_text(
        f"""
data: {{labelled: labelled.json, images: images, calibration: val.json, validation: val.json, pool: pool}}
smoothing: {{kind: similarity, embedder: {tmp_path / "embedder"}}}
teacher: {{steps: 20}}
label: {{batch_size: 4}}
"""
    )
    return path


def test_an_embedder_of_another_family_smooths_the_teachers_targets(config_file: Path, tmp_path: Path) -> None:
    config, run = load_config(config_file), RunFolder(str(tmp_path / "run"))
    labelled = RunData(config).labelled
    counter = SimpleNamespace(report=SimpleNamespace(remote=lambda *_: None))
    embed = EmbedShard(config=config_dict(config), run=run, model_uri=config.smoothing.embedder, counter=counter)

    def sums(rows: range) -> PrototypeSums:
        [row] = embed({"shard_id": 0, "rows": list(rows)}).to_pylist()
        counts = np.array(row["counts"])
        return PrototypeSums(counts=counts, sums=np.array(row["sums"]).reshape(len(counts), -1))

    whole = sums(range(8)) + sums(range(8, len(labelled)))
    assert whole.sums.shape == (labelled.num_classes, EMBEDDING_SIZE)
    assert whole.counts.tolist() == labelled.class_instance_counts().tolist()
    table = {
        "class_index": range(labelled.num_classes),
        "num_instances": whole.counts,
        "embedding": whole.prototypes().astype(np.float32).tolist(),
    }
    commit_table(run.path("prototypes", "prototypes.parquet"), pa.table(table, schema=PROTOTYPES))

    assert warmup_steps(config) == 0, "no warm-up is needed"
    build_segmenter, job = teacher_job(config_dict(config), run)
    segmenter = build_segmenter()
    assert isinstance(segmenter.backbone.body, TinyBody)
    assert job.start_step == 0
    [row] = [row for row in range(len(labelled)) if 0 in labelled.annotated_classes(row)][:1]
    _, target = job.labelled.load(row, np.random.default_rng(0))
    smoothed = target.class_probs[labelled.object_classes(row) == 0][0]
    assert 0.8 <= smoothed[0] < 1, "the class keeps 1 - eps"
    assert (smoothed[1:-1] > 0).all()
    assert smoothed[-1] == 0


def test_check_names_an_embedder_that_is_not_there(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, {"smoothing.embedder": str(tmp_path / "nothing")})
    with pytest.raises(InputError, match=r"nothing/model\.json: no such file"):
        check_run(config, RunFolder(str(tmp_path / "run")))
