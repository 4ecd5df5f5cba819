"""Fixtures that every test may use."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # so that `fakes:FakeSegmenter` is found, as a user's own class would be
os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(TESTS), os.environ.get("PYTHONPATH")) if part)

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Folder of the real data beside the project, by name; skips where it is absent."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"needs ../shared/data/{name}, which is absent")
        return folder

    return find
