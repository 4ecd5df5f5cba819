"""One live line for a long stage: done/total, rate, time left. Plain lines where the output is not a terminal."""

import sys
import time
from typing import TextIO

QUIET_SECONDS = 60.0


class Progress:
    """Prints how far a stage is.

    On a terminal one line is rewritten; elsewhere a plain line is printed at most every `plain_seconds` where something
    was done since the last, once a minute where nothing was, and at the end.

    Args:
        label: name of the stage.
        total: amount of work, in `unit`s.
        unit: plural noun of the work, such as "images".
        done: work that was finished before (a resumed stage); it does not count into the rate.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str = "images",
        done: int = 0,
        stream: TextIO | None = None,
        plain_seconds: float = 10.0,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._done_before = done
        self._stream = stream or sys.stderr
        self._plain_seconds = plain_seconds
        self._start = self._last_plain = time.monotonic()
        self._is_live = self._stream.isatty()
        self._line_length = 0
        self._plain_done = done

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None or self.done > self._done_before:
            self.finish()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units are finished in all; `note` is appended (such as a loss)."""
        self.done = done
        now = time.monotonic()
        if self._is_live:
            self._rewrite(self.text(note))
        elif done < self.total and now - self._last_plain >= (
            self._plain_seconds if done != self._plain_done else QUIET_SECONDS
        ):
            self._last_plain, self._plain_done = now, done
            print(self.text(note), file=self._stream, flush=True)

    def finish(self) -> None:
        """Print the last state and end the line."""
        if self._is_live:
            self._rewrite(self.text())
            print(file=self._stream, flush=True)
        else:
            print(self.text(), file=self._stream, flush=True)

    def text(self, note: str = "") -> str:
        """The line: label, done/total, rate, time left or time taken."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._done_before) / seconds
        parts = [f"{self.label}: {self.done}/{self.total} {self.unit}", f"{rate:.1f} {self.unit}/s"]
        if self.done >= self.total:
            parts.append(f"took {_clock(seconds)}")
        else:
            parts.append(f"{_clock((self.total - self.done) / rate)} left" if rate > 0 else "starting")
        return "  ".join([*parts, note]).rstrip()

    def _rewrite(self, text: str) -> None:
        print("\r" + text.ljust(self._line_length), end="", file=self._stream, flush=True)
        self._line_length = len(text)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
