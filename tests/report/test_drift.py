"""The page lists drifted classes if drift was measured."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raylabel.files.tables import commit_table
from raylabel.report.drift import drift_section
from raylabel.report.page import build_report
from raylabel.run.classes import load_categories
from raylabel.run.folder import RunFolder
from raylabel.schema import DRIFT


@pytest.fixture
def run(full_run: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(full_run.uri, tmp_path / "run")
    return RunFolder(str(tmp_path / "run"))


NAMES = ["<script>alert('x')</script>", "red disc", "green disc", "blue disc", "grey & brown disc"]
"""Class names of `full_run`."""


def put_drift(run: RunFolder, drifted: dict[int, dict[str, Any]]) -> None:
    rows = []
    for index in range(len(NAMES)):
        row = dict.fromkeys(DRIFT.names, 0.5) | {"class_index": index, "scores_drifted": False, "rate_drifted": False}
        counts = {name: 1234 for name in DRIFT.names if name.startswith("num_")}
        rows.append(row | counts | drifted.get(index, {}))
    commit_table(run.path("labels", "drift.parquet"), pa.Table.from_pylist(rows, schema=DRIFT))
    summary = {"num_classes": 5, "num_tests": 10, "warning": None}
    run.commit_artifact("labels", (run.artifact("labels") or {}) | {"drift": summary})


def test_drifted_classes_are_listed_the_surest_first(run: RunFolder) -> None:
    put_drift(
        run,
        {
            0: {"rate_drifted": True, "rate_ratio": 3.25, "rate_p_value": 1e-4},
            2: {"scores_drifted": True, "psi": 0.62, "psi_p_value": 1e-6},
            3: {"rate_drifted": True, "rate_ratio": None, "rate_ratio_high": None, "rate_p_value": 1e-5},
        },
    )
    section = drift_section(run, load_categories(run))
    assert section is not None
    assert [row["name"] for row in section["rows"]] == [NAMES[2], NAMES[3], NAMES[0]]
    page = build_report(run)
    assert "<b>3</b> differ" in page
    assert "<b>3.25</b>" in page
    assert "<b>0.62</b>" in page
    assert NAMES[0] not in page, "escaped"


def test_no_drift_is_said_so(run: RunFolder) -> None:
    put_drift(run, {})
    assert "10 tests" in build_report(run)
    assert "None differs." in build_report(run)


def test_without_a_measurement_there_is_no_section(run: RunFolder) -> None:
    assert drift_section(run, load_categories(run)) is None
    assert "<h3>Drift</h3>" not in build_report(run)
