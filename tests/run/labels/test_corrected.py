"""Stored labels under another corrector: only the calibrated scores change, even after interruptions."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raylabel.calibration import Corrector, Detections, FitContext, fit_corrector
from raylabel.config import SelectionConfig
from raylabel.files.digests import digest
from raylabel.files.tables import commit_table, read_table, read_table_metadata
from raylabel.predictions.context import CONTEXT_FEATURES
from raylabel.run.folder import RunFolder
from raylabel.run.labels import corrected
from raylabel.run.labels.corrected import apply_corrector
from raylabel.run.labels.kept import count_fates, kept_images
from raylabel.run.labels.shards import STATUS_OK, committed_shards, shard_uri
from raylabel.schema import LABELS

NUM_CLASSES = 5
GROUPS = np.array(["r", "r", "c", "f", "f"])
SELECTION = SelectionConfig(
    min_score=0.4, min_score_by_group={"r": 0.2}, min_mask_quality=0.1, min_area=5, max_per_image=3
)


def stored_rows(rng: np.random.Generator, num_images: int) -> list[dict[str, Any]]:
    """Make rows of images with zero to nine predictions. Every fourth image is quarantined."""
    rows = []
    for number in range(num_images):
        is_bad = number % 4 == 3
        structs = []
        for _ in range(0 if is_bad else rng.integers(0, 10)):
            probs = np.sort(rng.random(3).astype(np.float32))[::-1] / np.float32(3)
            structs.append(
                {
                    "class_index": int(rng.integers(NUM_CLASSES)),
                    "raw_score": float(np.float32(rng.random())),
                    "calibrated_score": float(np.float32(rng.random())),
                    "box_xyxy": rng.random(4).astype(np.float32).tolist(),
                    "mask_counts": rng.bytes(5),
                    "mask_area": int(rng.integers(0, 40)),
                    "mask_quality": float(np.float32(rng.random())),
                    "soft_classes": rng.permutation(NUM_CLASSES + 1)[:3].tolist(),
                    "soft_probs": probs.tolist(),
                    "context": {name: float(np.float32(rng.random())) for name in CONTEXT_FEATURES},
                }
            )
        status = "zero bytes" if is_bad else "ok"
        rows.append({"image_id": str(number), "uri": f"pool/{number}", "height": 8, "width": 9, "status": status})
        rows[-1]["instances"] = structs
    return rows


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with five shards, one of them empty. Each shard has different lineage."""
    folder, rng = RunFolder(str(tmp_path / "run")), np.random.default_rng(0)
    for shard_id, num_images in enumerate([7, 1, 0, 20, 9]):
        metadata = {"corrector": "another", "shard_id": str(shard_id), "histogram": f"{shard_id} counts"}
        table = pa.Table.from_pylist(stored_rows(rng, num_images), schema=LABELS.with_metadata(metadata))
        commit_table(shard_uri(folder, shard_id), table)
    return folder


def fitted(kind: str) -> Corrector:
    rng = np.random.default_rng(1)
    detections = Detections(
        num_classes=NUM_CLASSES,
        class_indices=rng.integers(0, NUM_CLASSES, 400).astype(np.int32),
        raw_scores=rng.random(400),
        image_indices=np.arange(400) // 5,
        outcomes=(rng.random(400) < 0.3).astype(np.int8),
        weights=np.ones(400),
    )
    return fit_corrector(kind, detections, context=FitContext(num_bins=5, frequency_groups=GROUPS, seed=0))


def tables(run: RunFolder) -> dict[int, pa.Table]:
    return {shard_id: read_table(uri) for shard_id, uri in committed_shards(run).items()}


def without_scores(table: pa.Table) -> list[dict[str, Any]]:
    rows = table.to_pylist()
    for row in rows:
        for one in row["instances"]:
            del one["calibrated_score"]
    return rows


def test_only_calibrated_scores_and_lineage_change(run: RunFolder) -> None:
    before, corrector = tables(run), fitted("temperature")
    assert apply_corrector(run, corrector, num_classes=NUM_CLASSES) == 5
    for shard_id, table in tables(run).items():
        assert table.schema.equals(LABELS)
        assert without_scores(table) == without_scores(before[shard_id])
        old, new = (one["instances"].combine_chunks().flatten() for one in (before[shard_id], table))
        for name in ("soft_classes", "soft_probs", "mask_counts", "raw_score"):
            assert new.field(name).equals(old.field(name)), "bit by bit"
        detections = Detections.of_scores(
            new.field("class_index").to_numpy(), new.field("raw_score").to_numpy(), num_classes=NUM_CLASSES
        )
        np.testing.assert_array_equal(
            new.field("calibrated_score").to_numpy(), corrector(detections).astype(np.float32)
        )
        assert read_table_metadata(shard_uri(run, shard_id)) == {
            "corrector": digest(corrector.to_json()),
            "shard_id": str(shard_id),
            "histogram": f"{shard_id} counts",
        }
    assert apply_corrector(run, corrector, num_classes=NUM_CLASSES) == 0, "nothing is left to do"


def test_after_an_interruption_the_rest_is_done(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    corrector, num_done = fitted("temperature"), 0
    before = tables(run)

    def dies_at_the_third(uri: str, table: pa.Table) -> None:
        nonlocal num_done
        if num_done == 2:
            raise OSError("no space left on device")
        num_done += 1
        commit_table(uri, table)

    monkeypatch.setattr(corrected, "commit_table", dies_at_the_third)
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: 1)
    with pytest.raises(OSError, match="no space"):
        apply_corrector(run, corrector, num_classes=NUM_CLASSES)
    done = [shard_id for shard_id, table in tables(run).items() if not table.equals(before[shard_id], True)]
    assert len(done) == 2, "the other shards are unchanged"
    times = {shard_id: Path(uri).stat().st_mtime_ns for shard_id, uri in committed_shards(run).items()}

    monkeypatch.undo()
    assert apply_corrector(run, corrector, num_classes=NUM_CLASSES) == 3
    assert {
        Path(uri).stat().st_mtime_ns == times[one] for one, uri in committed_shards(run).items() if one in done
    } == {True}
    assert {read_table_metadata(uri)["corrector"] for uri in committed_shards(run).values()} == {
        digest(corrector.to_json())
    }
    leftovers = [path.name for path in Path(run.path("labels")).iterdir() if path.suffix != ".parquet"]
    assert leftovers == []


def test_threads_stop_at_the_first_failure(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(uri: str, table: pa.Table) -> None:
        raise OSError(uri)

    monkeypatch.setattr(corrected, "commit_table", fails)
    monkeypatch.setattr("raylabel.threads.num_cpus", lambda: 2)
    before = tables(run)
    with pytest.raises(OSError, match="shard-00000000"):
        apply_corrector(run, fitted("temperature"), num_classes=NUM_CLASSES)
    assert all(table.equals(before[shard_id]) for shard_id, table in tables(run).items())


def test_counts_of_the_selection_equal_what_it_keeps(run: RunFolder) -> None:
    total = 0
    for uri in committed_shards(run).values():
        images = list(kept_images(uri, SELECTION, GROUPS))
        table = read_table(uri)
        fates = count_fates(table.filter(pc.equal(table["status"], STATUS_OK)), SELECTION, GROUPS)
        classes = [one["class_index"] for image in images for one in image.structs]
        np.testing.assert_array_equal(fates.num_kept, np.bincount(classes, minlength=NUM_CLASSES))
        expected = sum((image.dropped for image in images), Counter[str]())
        assert Counter(fates.dropped) == expected
        total += len(classes)
    assert total > 10


def test_kept_predictions_are_the_stored_ones(run: RunFolder) -> None:
    for shard_id, table in tables(run).items():
        stored = {row["image_id"]: row for row in table.to_pylist() if row["status"] == "ok"}
        found = {image.image_id: image for image in kept_images(shard_uri(run, shard_id), SELECTION, GROUPS)}
        assert found.keys() == stored.keys()
        for image_id, image in found.items():
            assert image.image_size_hw == (8, 9)
            assert [one for one in stored[image_id]["instances"] if one in image.structs] == image.structs
            assert len(image.structs) <= 3
            assert len(image.structs) + sum(image.dropped.values()) == len(stored[image_id]["instances"])
