"""A folder as a pool."""

import pytest

from small_pools import NAMES, png


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pool"
    for value, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(value))
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(png(9))
    (root / ".cache").mkdir()
    (root / ".cache" / "a.png").write_bytes(png(9))
    return root
