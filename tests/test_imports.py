"""The modules that commands load: a driver that only hands out shards or reads files loads no model library."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("raylabel.cli", ("torch", "ray", "scipy", "pyarrow.dataset")),
        ("raylabel.stages.status", ("torch", "ray", "scipy")),
        ("raylabel.stages.label", ("torch", "torchvision", "ray.train", "scipy.stats")),
        ("raylabel.cluster.predictor", ("torchvision", "ray.train", "scipy.stats")),
        ("raylabel.external", ("torch", "ray")),
        ("raylabel.calibration", ("torch", "ray")),
    ],
)
def test_what_is_not_loaded(module: str, unneeded: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print([name for name in {unneeded} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
