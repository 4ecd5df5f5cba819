"""Progress of a long stage, as a live line, plain lines or figures: done/total, rates of the last minute, time left."""

import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TextIO

WINDOW_SECONDS = 60.0
"""Length of the window of the rates. Over the whole time, earlier progress would hide a stall."""

SETTLING_SECONDS = 3.0
"""Time before the first rate is shown, because the first reports come in lumps."""

QUIET_SECONDS = 60.0
"""Time between plain lines while nothing is finished."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Totals of a stage so far.

    Attributes:
        done: finished units of work.
        num_instances: predictions found in the finished units; None if the stage does not count predictions.
        num_quarantined: unusable images among the finished units; None if the stage does not count them.
        note: text for the end of the line, such as a loss.
    """

    done: int
    num_instances: int | None = None
    num_quarantined: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a stage at one moment, for the progress line and, as JSON, for `raylabel status`.

    Attributes:
        unit: plural noun of the work, such as "images".
        done, total: finished and total work, in `unit`s.
        per_second: units per second over the last minute; None until it is known.
        instances_per_second: predictions per second over the last minute; None if predictions are not counted.
        num_instances, num_quarantined: see `Counts`.
        seconds_left: time left at the rate `per_second`; None if nothing was finished in the last minute.
        seconds_stalled: seconds since the last unit was finished.
        note: text for the end of the line, such as a loss.
    """

    unit: str
    done: int
    total: int
    per_second: float | None
    instances_per_second: float | None
    num_instances: int | None
    num_quarantined: int | None
    seconds_left: float | None
    seconds_stalled: float
    note: str = ""

    def text(self) -> str:
        """Return the figures as text: done/total, rates, time left, quarantined images, note."""
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.per_second is not None:
            parts.append(f"{self.per_second:.1f} {self.unit}/s")
            if self.instances_per_second is not None:
                parts.append(f"{self.instances_per_second:.1f} instances/s")
        if self.done < self.total:
            parts.append(self._outlook())
        if self.num_quarantined is not None:
            parts.append(f"{self.num_quarantined} quarantined")
        if self.note:
            parts.append(self.note)
        return "  ".join(parts)

    def _outlook(self) -> str:
        if self.per_second is None:
            return "starting"
        if self.seconds_left is None:
            return f"nothing done for {clock(self.seconds_stalled)}"
        return f"{clock(self.seconds_left)} left"


class Progress:
    """Printer of a stage's progress.

    A terminal gets one line that is rewritten. Other streams get plain lines: at most one per `plain_seconds` while
    work is finished, one per minute while nothing is finished, and one at the end.

    Args:
        label: name of the stage.
        total: amount of work, in `unit`s.
        unit: plural noun of the work, such as "images".
        done: work that an earlier run finished; it does not count into the rate.
        stream: where lines are printed; standard error if None.
        plain_seconds: least time between plain lines.
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
        self._counts = Counts(done=done)
        self._done_before = done
        self._stream = stream or sys.stderr
        self._plain_seconds = plain_seconds
        self._start = self._last_plain = self._last_done = time.monotonic()
        self._is_live = self._stream.isatty()
        self._line_length = 0
        self._plain_done = done
        self._window = deque([(self._start, done, 0)])

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None or self._counts.done > self._done_before:
            self.finish()

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units are finished in total. `note` is appended to the line."""
        self.show(Counts(done=done, note=note))

    def show(self, counts: Counts) -> None:
        """Show the totals of the stage."""
        now = time.monotonic()
        if counts.done > self._counts.done:
            self._last_done = now
        self._counts = counts
        self._remember(now)
        if self._is_live:
            self._rewrite(self.text())
        elif counts.done < self.total and now - self._last_plain >= (
            self._plain_seconds if counts.done != self._plain_done else QUIET_SECONDS
        ):
            self._last_plain, self._plain_done = now, counts.done
            print(self.text(), file=self._stream, flush=True)

    def finish(self) -> None:
        """Print the final state and end the line."""
        text = f"{self.label}: {self.figures(is_whole=True).text()}"
        if self._counts.done >= self.total:
            text += f"  took {clock(time.monotonic() - self._start)}"
        if self._is_live:
            self._rewrite(text)
            print(file=self._stream, flush=True)
        else:
            print(text, file=self._stream, flush=True)

    def text(self) -> str:
        """Return the line: label, figures, note."""
        return f"{self.label}: {self.figures().text()}"

    def figures(self, *, is_whole: bool = False) -> Figures:
        """Return the current figures. Rates cover the last minute, or the whole time with `is_whole`."""
        now, counts = time.monotonic(), self._counts
        start, done_then, instances_then = (self._start, self._done_before, 0) if is_whole else self._window[0]
        seconds = max(now - start, 1e-9)
        is_settled = is_whole or seconds >= SETTLING_SECONDS
        per_second = instances_per_second = None
        if counts.done > self._done_before and is_settled:
            per_second = max(counts.done - done_then, 0) / seconds
            if counts.num_instances is not None:
                instances_per_second = max(counts.num_instances - instances_then, 0) / seconds
        left = max(self.total - counts.done, 0)
        return Figures(
            unit=self.unit,
            done=counts.done,
            total=self.total,
            per_second=per_second,
            instances_per_second=instances_per_second,
            num_instances=counts.num_instances,
            num_quarantined=counts.num_quarantined,
            seconds_left=left / per_second if per_second else None,
            seconds_stalled=now - self._last_done,
            note="" if is_whole else counts.note,
        )

    def _remember(self, now: float) -> None:
        if self._counts.done <= self._done_before:
            # While workers start, the rate says nothing about the time left.
            self._window = deque([(now, self._counts.done, 0)])
        # At most one sample per second, and only the last sample before the window, because memory must stay bounded.
        if now - self._window[-1][0] >= 1.0:
            self._window.append((now, self._counts.done, self._counts.num_instances or 0))
        while len(self._window) > 1 and now - self._window[1][0] >= WINDOW_SECONDS:
            self._window.popleft()

    def _rewrite(self, text: str) -> None:
        print("\r" + text.ljust(self._line_length), end="", file=self._stream, flush=True)
        self._line_length = len(text)


def clock(seconds: float) -> str:
    """Format a duration as h:mm:ss, or m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
