"""A finished run of every stage, made in this process."""

from pathlib import Path

import pytest

from raylabel.config import load_config
from raylabel.run.folder import RunFolder
from raylabel.stages.run import run_pipeline
from without_ray import put_stages_here


@pytest.fixture(scope="session")
def trained(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Tests that change the run copy it first."""
    run = RunFolder(str(tmp_path_factory.mktemp("trained") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        put_stages_here(patch)
        run_pipeline(load_config(generated / "config.yaml"), run)
    return run
