"""Every process finds the same tests by the same names: those that share the suite compare them before they start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def collected(hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-v", "-p", "no:cacheprovider", "tests"]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[:-1]  # the last line has the seconds


def test_names_depend_on_neither_time_nor_hashes() -> None:
    first = collected("1")
    time.sleep(1.1)  # gzip's header has whole seconds
    assert len(first) > 1000
    assert collected("2") == first
