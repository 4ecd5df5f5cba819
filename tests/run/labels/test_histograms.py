"""Histograms of stored labels, by hand, and their text in a shard's metadata."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from pool_world import labelled_row, write_shard
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import bins_of_shard, expected_bins, histogram_from_json, histogram_to_json
from raylabel.run.labels.shards import committed_shards
from raylabel.schema import LABELS

SIZE = (8, 8)


def row(soft_vectors: list[list[float]], scores: list[float]) -> dict[str, object]:
    masks = np.ones((len(scores), *SIZE), bool)
    return labelled_row("a", "a.png", SIZE, np.reshape(soft_vectors, (-1, 3)), scores, masks, 0.9)


ROWS = [
    row([[0.6, 0.1, 0.3], [0.7, 0.1, 0.2], [0.2, 0.6, 0.2]], [0.25, 0.5, 0.125]),
    row([], []),
    row([[0.65, 0.05, 0.3], [0.1, 0.05, 0.85]], [0.75, 0.0625]),
]


def test_every_prediction_of_a_cell_adds_its_calibrated_score(tmp_path: Path) -> None:
    """Class 0 has three predictions in the upper bin, of calibrated scores 0.25, 0.5 and 0.75."""
    bins = expected_bins(pa.Table.from_pylist(ROWS, schema=LABELS), num_classes=2, num_bins=2)
    assert bins.num.tolist() == [[1, 3], [0, 1]]
    assert bins.num_correct.tolist() == [[0.0625, 1.5], [0, 0.125]]
    np.testing.assert_allclose(bins.sum_confidence, [[0.1, 1.95], [0, 0.6]], atol=1e-6)
    assert bins.num_ignored.tolist() == [[0, 0], [0, 0]]
    run = RunFolder(str(tmp_path))
    write_shard(run, 0, ROWS)
    [uri] = committed_shards(run).values()
    for name, values in vars(bins_of_shard(uri, num_classes=2, num_bins=2)).items():
        np.testing.assert_array_equal(values, getattr(bins, name))


def test_the_text_keeps_counts_and_confidences() -> None:
    """The truth is unknown, so nothing is correct or ignored."""
    table = expected_bins(pa.Table.from_pylist(ROWS, schema=LABELS), num_classes=2, num_bins=4).to_table()
    again = histogram_from_json(histogram_to_json(table))
    for name in ("class_index", "bin", "num", "sum_confidence"):
        assert again[name].equals(table[name])
    assert set(again["num_correct"].to_pylist()) == set(again["num_ignored"].to_pylist()) == {0.0}
    assert again.schema.metadata == table.schema.metadata
