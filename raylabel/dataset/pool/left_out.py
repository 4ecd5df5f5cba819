"""Counts of the files that a listing of a pool leaves out, by reason and suffix."""

import posixpath
from collections import Counter
from enum import Enum

_SHOWN, _KNOWN, _LONGEST = 5, 1000, 12
_OTHERS = "other suffixes"


class Reason(Enum):
    """Why a listing leaves a file out."""

    OTHER_KIND = "file of another kind", "files of other kinds"
    HIDDEN = "hidden file", "hidden files"
    LINK = "link in a tar", "links in tars"
    SAMPLE_PART = "part of a WebDataset sample", "parts of WebDataset samples"

    def count(self, num: int) -> str:
        """Return a number of such files as text."""
        return f"{num} {self.value[num != 1]}"


class LeftOut:
    """Counter of left-out files. Its memory does not grow with the pool."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[Reason, str]] = Counter()

    def add(self, reason: Reason, path: str) -> None:
        """Count a file, or a hidden folder as a whole."""
        # A hidden file such as `.a.png` has a suffix, but `.git` has none.
        suffix = posixpath.splitext(posixpath.basename(path).lstrip("."))[1].lower() or "no suffix"
        is_odd = len(suffix) > _LONGEST or not suffix.isprintable()
        is_full = (reason, suffix) not in self.counts and len(self.counts) >= _KNOWN
        self.counts[reason, _OTHERS if is_odd or is_full else suffix] += 1

    def __bool__(self) -> bool:
        return bool(self.counts)

    def text(self) -> str:
        """Return the counts as one line, such as "3 files of other kinds left out (2 .zip, 1 no suffix)"."""
        parts = []
        for reason in Reason:
            of_reason = Counter({suffix: num for (one, suffix), num in self.counts.items() if one == reason})
            if not of_reason:
                continue
            shown = sorted(of_reason.items(), key=lambda item: (-item[1], item[0]))
            suffixes = [f"{num} {suffix}" for suffix, num in shown[:_SHOWN]]
            if rest := sum(num for _, num in shown[_SHOWN:]):
                suffixes.append(f"{rest} {_OTHERS}")
            parts.append(f"{reason.count(of_reason.total())} left out ({', '.join(suffixes)})")
        return "; ".join(parts)
