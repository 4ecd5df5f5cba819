"""`benchmarks/compare_runs.py`: what counts as the same, and what does not."""

import json
import runpy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "compare_runs.py"


@pytest.fixture
def main() -> Any:
    return runpy.run_path(str(SCRIPT))["main"]


def write_run(folder: Path, *, seconds: float = 1.0, score: float = 0.5, fingerprint: str = "f") -> str:
    """A run with one label shard, a corrector and an artifact."""
    for name in ("labels", "calibration"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text("data: {}\n")
    (folder / "calibration" / "corrector.json").write_text("{}")
    (folder / "labels" / "artifact.json").write_text(json.dumps({"fingerprint": fingerprint, "seconds": seconds}))
    metadata = {"seconds": str(seconds), "read_seconds": str(seconds), "host": f"host-{seconds}", "num_images": "1"}
    shard = pa.table({"score": [score]}).replace_schema_metadata(metadata)
    pq.write_table(shard, folder / "labels" / "shard-00000000.parquet")
    return str(folder)


def test_runs_that_took_another_time_are_the_same(
    main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write_run(tmp_path / "before"), write_run(tmp_path / "after", seconds=2.0)]) == 0
    printed = capsys.readouterr().out
    assert "same: 1 *.parquet but for seconds and hosts" in printed
    assert "same: 1 corrector.json byte for byte" in printed
    assert "same: 1 fingerprints" in printed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": 0.6}, "labels/shard-00000000.parquet: differs"),
        ({"fingerprint": "g"}, "labels/artifact.json: another fingerprint"),
    ],
)
def test_differences_are_named(
    changed: dict[str, Any], message: str, main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([write_run(tmp_path / "before"), write_run(tmp_path / "after", **changed)]) == 1
    assert message in capsys.readouterr().out.splitlines()


def test_a_missing_file_is_named(main: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = write_run(tmp_path / "before"), write_run(tmp_path / "after")
    Path(after, "calibration", "corrector.json").unlink()
    assert main([before, after]) == 1
    assert "calibration/corrector.json: only in one of the runs" in capsys.readouterr().out
