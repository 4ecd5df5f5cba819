"""Files of a detector, and their calibration."""

from pathlib import Path
from typing import Any

import pytest

from raylabel.external import calibrate_results
from small_results import Files, write_files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and artifact of a calibration of `write_files`."""
    folder = tmp_path_factory.mktemp("calibration")
    predictions, annotations, _ = write_files(folder)
    artifact = calibrate_results(predictions, annotations, str(folder / "out"), corrector="hierarchical", num_bins=10)
    return folder / "out", artifact
