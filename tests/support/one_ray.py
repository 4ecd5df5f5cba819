"""Which process of pytest-xdist runs which test.

All tests that need the session's cluster run in one process. The tests of a file in `slow/` run in one process, because
they share what the file prepared; each starts its own Ray.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
NEEDS_RAY = ("ray_session", "finished_run")


@cache
def needs_ray(file: str) -> bool:
    """Whether a file, relative to the repository, has a test that needs the session's cluster."""
    text = (TESTS.parent / file).read_text()
    return any(sign in text for sign in NEEDS_RAY)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the files that need Ray to one process, a slow file to one, and any other test to whichever is free."""
    from xdist.scheduler import LoadScopeScheduling

    class OneRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if needs_ray(file):
                return "ray"
            return file if file.startswith("tests/slow/") else nodeid

    return OneRay(config, log)
