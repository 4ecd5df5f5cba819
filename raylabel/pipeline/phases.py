"""Where a worker's time goes: seconds by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class PhaseSeconds:
    """Adds up wall-clock seconds of named phases, which must not overlap."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def __getitem__(self, name: str) -> float:
        """Seconds of a phase so far, 0 where it never was."""
        return self._seconds.get(name, 0.0)

    def clear(self) -> None:
        """Begin again."""
        self._seconds.clear()
