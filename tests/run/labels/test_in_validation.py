"""Images that another validation split leaves out of a committed shard."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pool_world import labelled_row
from raylabel.config import Config
from raylabel.dataset.content import Contents
from raylabel.files.tables import commit_table, read_table
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import HISTOGRAM_BINS, expected_bins, histogram_to_json
from raylabel.run.labels.in_validation import _leave_out, ensure_compared, is_compared, read_validation
from raylabel.schema import LABELS

NUM_CLASSES = 3
MASKS = np.ones((9, 4, 5), bool)


@st.composite
def images(draw: st.DrawFn) -> list[tuple[int, list[int], bool, bool]]:
    """Content, classes of the predictions, whether the image is quarantined, and whether it is left out."""
    contents = draw(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=6))
    classes, flags = st.lists(st.integers(0, NUM_CLASSES - 1), max_size=4), st.booleans()
    return [(content, draw(classes), draw(flags), draw(flags)) for content in contents]


@given(images())
def test_only_the_rows_of_such_images_change(drawn: list[tuple[int, list[int], bool, bool]]) -> None:
    rows = []
    for number, (content, classes, is_bad, _) in enumerate(drawn):
        soft = np.eye(NUM_CLASSES + 1, dtype=np.float32)[np.array(classes, np.int64)] * 0.75
        row = labelled_row(f"{number}", f"{number}.jpg", (4, 5), soft, soft.sum(axis=1), MASKS[: len(classes)], 0.5)
        row |= {"status": "truncated", "instances": [], "height": 0, "width": 0} if is_bad else {}
        rows.append(row | {"content": content})
    is_out = [is_left_out and not is_bad for _, _, is_bad, is_left_out in drawn]
    expected = [
        row | {"status": f"in validation: {row['content']}.jpg", "instances": [], "height": 0, "width": 0}
        if out
        else row
        for row, out in zip(rows, is_out, strict=True)
    ]
    found = [content for content, _, _, is_left_out in drawn if is_left_out]
    contents = Contents.of(np.array(found, np.uint64), [f"{content}.jpg" for content in found])
    with TemporaryDirectory() as folder:
        uri = str(Path(folder, "shard-00000000.parquet"))
        metadata = {"num_in_validation": "2", "num_instances": "77", "histogram": "{}", "corrector": "same"}
        commit_table(uri, pa.Table.from_pylist(rows, schema=LABELS.with_metadata(metadata)))
        assert _leave_out(uri, contents, num_classes=NUM_CLASSES) == any(is_out)
        table = read_table(uri)
        assert not _leave_out(uri, contents, num_classes=NUM_CLASSES), "the second time there is nothing left to do"
    assert table.schema.equals(LABELS)
    wanted = pa.Table.from_pylist(expected, schema=LABELS)
    assert table.to_pylist() == wanted.to_pylist()
    if any(is_out):
        bins = expected_bins(wanted, num_classes=NUM_CLASSES, num_bins=HISTOGRAM_BINS).to_table()
        num_instances = sum(len(row["instances"]) for row in expected)
        metadata |= {"num_in_validation": str(2 + sum(is_out)), "num_instances": str(num_instances)}
        metadata["histogram"] = histogram_to_json(bins)
    assert {key.decode(): value.decode() for key, value in table.schema.metadata.items()} == metadata


def test_the_table_for_workers_follows_the_config(config: Config, tmp_path: Path) -> None:
    run, data = RunFolder(str(tmp_path / "run")), RunData(config)
    kept = RunData(replace(config, data=replace(config.data, validation_in_pool="keep")))
    assert not is_compared(run, data)
    ensure_compared(run, data, num_classes=NUM_CLASSES)
    found = read_validation(run)
    assert sorted(found.names) == sorted(image.file_name for image in data.validation.images)
    assert (found.digests[1:] > found.digests[:-1]).all()
    assert (is_compared(run, data), is_compared(run, kept)) == (True, False)
    ensure_compared(run, kept, num_classes=NUM_CLASSES)
    assert len(read_validation(run)) == 0
    assert (is_compared(run, data), is_compared(run, kept)) == (False, True)
