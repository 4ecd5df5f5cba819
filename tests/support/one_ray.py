"""Which process of pytest-xdist runs which test, for `--dist loadgroup`.

All tests that need the session's cluster run in one process. The tests of a file in `slow/` run in one process, because
they share what the file prepared; each starts its own Ray.
"""

import pytest


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the session's cluster to one process, a slow file to one, and any other test to any."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        elif item.get_closest_marker("ray") or "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
