"""What became of the predictions of each class, counted shard by shard."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_world import labelled_row, labelled_run, write_shard
from raylabel.cli import main
from raylabel.config import SelectionConfig
from raylabel.files.tables import read_table
from raylabel.predictions.selection import REASONS, select
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.run.labels import kept
from raylabel.run.labels.class_fates import ClassFates, commit_class_fates
from raylabel.run.labels.kept import count_class_fates, fates_of_classes
from raylabel.schema import CLASS_FATES

GROUPS = np.array(["r", "c", "f"])
NAMES = ["mug", "lamp", "kite", "yak"]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two shards. Lamps score too low, kites are too small, and nothing looks like a yak."""
    run = labelled_run(tmp_path, [], names=NAMES)
    large, small = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    large[2:9, 3:12] = small[0, :2] = True
    for shard_id, lamp_score in enumerate((0.2, 0.45)):
        classes, scores, masks = [0, 1, 2], [0.9, lamp_score, 0.8], np.stack([large, large, small])
        soft = np.eye(5, dtype=np.float32)[classes]
        write_shard(run, shard_id, [labelled_row(f"{shard_id}", "x.png", (16, 16), soft, scores, masks, 0.9)])
    settings = Path(run.path("config.yaml"))
    settings.write_text(settings.read_text().replace("min_area: 1\n", "min_area: 10\n"))
    return run


def write_fates(run: RunFolder) -> ClassFates:
    """Write the table of finished labels, as the stage does."""
    selection, classes = load_run_config(run).selection, load_classes(run)
    fates = count_class_fates(run, selection, classes)
    commit_class_fates(run, fates.to_table(classes, selection))
    return fates


def test_each_class_says_why_it_has_no_pseudo_label(run: RunFolder) -> None:
    rows = {row["name"]: row for row in fates_of_classes(run)}
    assert list(rows) == ["yak", "lamp", "kite", "mug"], "the class with the fewest comes first"
    said = ("num_predictions", "max_calibrated_score", "min_score", "num_kept", "most_frequent_reason")
    found = {name: tuple(row[key] for key in said) for name, row in rows.items()}
    assert found["yak"] == (0, None, 0.5, 0, None)
    assert found["lamp"] == (2, pytest.approx(0.45), 0.5, 0, "score")
    assert found["kite"] == (2, pytest.approx(0.8), 0.5, 0, "area")
    assert found["mug"] == (2, pytest.approx(0.9), 0.5, 2, None)
    assert rows["lamp"]["num_dropped_score"] == 2


def test_status_prints_them(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", run.uri, "--classes"]) == 0
    words = [line.split(maxsplit=6) for line in capsys.readouterr().out.splitlines()]
    assert ["lamp", "f", "2", "0.450", "0.50", "0", "calibrated score below selection.min_score (2)"] in words
    assert ["yak", "f", "0", "–", "0.50", "0", "–"] in words
    assert main(["status", run.uri, "--classes", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["classes"]] == ["yak", "lamp", "kite", "mug"]
    assert main(["status", run.uri]) == 0
    assert "lamp" not in capsys.readouterr().out


def test_finished_labels_have_a_table_and_shards_are_not_read(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = fates_of_classes(run)
    assert write_fates(run).dropped == {"score": 2, "mask_quality": 0, "area": 2, "max_per_image": 0}
    assert read_table(run.path("labels", "classes.parquet")).schema.equals(CLASS_FATES)
    run.commit_artifact("labels", {"fingerprint": "f", "seconds": 1.0})
    monkeypatch.setattr(kept, "count_class_fates", lambda *arguments: pytest.fail("the table is enough"))
    assert fates_of_classes(run) == counted


def test_a_table_of_unfinished_labels_is_not_taken(run: RunFolder) -> None:
    """The pool has grown: new shards are committed, and the table is that of the old ones."""
    write_fates(run)
    soft, masks = np.eye(5, dtype=np.float32)[[3]], np.ones((1, 16, 16), bool)
    write_shard(run, 2, [labelled_row("new", "x.png", (16, 16), soft, [0.7], masks, 0.9)])
    assert {row["name"]: row["num_kept"] for row in fates_of_classes(run)}["yak"] == 1


def test_without_labels_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert fates_of_classes(labelled_run(tmp_path, [], names=NAMES)) == []


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 12), max_size=5))
def test_parts_add_up_to_the_whole(seed: int, lengths: list[int]) -> None:
    rng, num = np.random.default_rng(seed), sum(lengths)
    config = SelectionConfig(min_score=0.4, min_score_by_group={"r": 0.2}, min_mask_quality=0.3, max_per_image=3)
    scores, classes = rng.random(num).astype(np.float32), rng.integers(0, 3, num).astype(np.int32)
    quality, areas = rng.random(num).astype(np.float32), rng.integers(0, 3, num).astype(np.int32)

    def fates(rows: slice, image_lengths: list[int]) -> ClassFates:
        chosen = select(
            calibrated_scores=scores[rows],
            class_indices=classes[rows],
            mask_quality=quality[rows],
            mask_areas=areas[rows],
            config=config,
            frequency_groups=GROUPS,
            image_lengths=np.array(image_lengths, dtype=np.int64),
        )
        return ClassFates.of(chosen, classes[rows], scores[rows], num_classes=3)

    ends = np.cumsum(lengths, dtype=int)
    whole, parts = fates(slice(None), lengths), ClassFates.none(3)
    for end, length in zip(ends, lengths, strict=True):
        parts += fates(slice(end - length, end), [length])
    np.testing.assert_array_equal(parts.counts, whole.counts)
    np.testing.assert_array_equal(parts.max_scores, whole.max_scores)
    assert whole.num_kept.sum() + sum(whole.dropped.values()) == num
    assert set(whole.dropped) == set(REASONS)
