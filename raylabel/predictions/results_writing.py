"""A results file with other scores: entry by entry, in the same format and order, as a stream."""

import gzip
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raylabel.errors import InputError
from raylabel.files.committing import committed_file
from raylabel.predictions.label_rows import has_label_rows, num_label_entries, with_calibrated_scores
from raylabel.predictions.results_parts import BAD_TEXT, Part, iter_parts, iter_slow_parts, results_format
from raylabel.processes import map_on_processes

_PartScores = tuple[NDArray[np.float64], NDArray[np.float64]]
"""New scores and raw scores of the entries of a part."""


def write_scores(
    results: str,
    out: str,
    scores: NDArray[np.float64],
    raw_scores: NDArray[np.float64],
    *,
    part_lengths: Sequence[int],
) -> None:
    """Write the entries of a results file with new scores. `raw_score` is added.

    Args:
        results: path or URI of the file.
        out: file to write. It has the format of `results`, whatever its name.
        scores: (N,) new scores.
        raw_scores: (N,) scores of the file, clipped to [0, 1].
        part_lengths: number of entries of each part of `iter_parts`.

    Raises:
        InputError: the file has changed since its scores were read.
    """
    scored = _Scores(results, scores, raw_scores)
    kind = results_format(results)
    with committed_file(out) as path:
        if kind == "parquet":
            _write_parquet(scored, path)
            return
        opened: Any = gzip.open if out.endswith(".gz") else open
        with opened(path, "wb") as file:
            texts = _texts(scored, part_lengths, is_lines=kind == "jsonl")
            _write_text(file, texts, is_lines=kind == "jsonl")


class _Scores:
    """The scores of a file's entries, taken part by part."""

    def __init__(self, results: str, scores: NDArray[np.float64], raw_scores: NDArray[np.float64]) -> None:
        self.results, self.num_done = results, 0
        self._scores, self._raw_scores = scores, raw_scores

    def of_part(self, first: int, num: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = slice(first, first + num)
        if len(self._scores[rows]) != num:
            raise self.changed()
        return self._scores[rows], self._raw_scores[rows]

    def check_end(self) -> None:
        if self.num_done != len(self._scores):
            raise self.changed()

    def changed(self) -> InputError:
        return InputError(f"{self.results}: the file has changed while it was read")


def _write_text(file: IO[bytes], texts: Iterator[bytes], *, is_lines: bool) -> None:
    start, between = (b"", b"") if is_lines else (b"[", b", ")
    for text in texts:
        file.write(start + text)
        start = between
    if not is_lines:
        file.write(b"[]" if start == b"[" else b"]")


def _texts(scored: _Scores, part_lengths: Sequence[int], *, is_lines: bool) -> Iterator[bytes]:
    """Yield the text of some entries after the others."""
    try:
        for (_, (scores, _)), text in map_on_processes(_text, _fast_parts(scored, part_lengths)):
            scored.num_done += len(scores)
            yield text
    except InputError:
        raise
    except BAD_TEXT:  # text that can't be cut
        yield from _slow_texts(scored, is_lines=is_lines)
    scored.check_end()


def _fast_parts(scored: _Scores, part_lengths: Sequence[int]) -> Iterator[tuple[Part, _PartScores]]:
    first = 0
    for part, num in zip(iter_parts(scored.results), part_lengths, strict=False):
        yield part, scored.of_part(first, num)
        first += num


def _slow_texts(scored: _Scores, *, is_lines: bool) -> Iterator[bytes]:
    """Yield the text of the entries that were not yet done."""
    num_seen = 0
    for part in iter_slow_parts(scored.results, scored.results):
        entries = part.entries()
        rest = entries[max(0, scored.num_done - num_seen) :]
        num_seen += len(entries)
        if rest:
            scores, raw_scores = scored.of_part(scored.num_done, len(rest))
            scored.num_done += len(rest)
            yield _dumped(rest, scores, raw_scores, is_lines=is_lines)


def _text(part: tuple[Part, _PartScores]) -> bytes:
    content, (scores, raw_scores) = part
    entries = content.entries()
    if len(entries) != len(scores):
        raise ValueError("the text was cut within an entry")
    return _dumped(entries, scores, raw_scores, is_lines=content.is_lines)


def _dumped(
    entries: list[Any], scores: NDArray[np.float64], raw_scores: NDArray[np.float64], *, is_lines: bool
) -> bytes:
    rows = [
        one | {"score": score, "raw_score": raw}
        for one, score, raw in zip(entries, scores.tolist(), raw_scores.tolist(), strict=True)
    ]
    # NaN is written where it was read: in fields that nothing here needs.
    if is_lines:
        return "".join(f"{json.dumps(one)}\n" for one in rows).encode()
    return json.dumps(rows)[1:-1].encode()


def _write_parquet(scored: _Scores, path: str) -> None:
    writer = None
    try:
        for part in iter_parts(scored.results):
            assert isinstance(part.content, pa.RecordBatch)
            rows = part.content
            rows = _images_scored(rows, scored) if has_label_rows(rows.schema) else _rows_scored(rows, scored)
            writer = writer or pq.ParquetWriter(path, rows.schema, compression="zstd")
            writer.write_batch(rows)
    finally:
        if writer is not None:
            writer.close()
    scored.check_end()


def _rows_scored(rows: pa.RecordBatch, scored: _Scores) -> pa.RecordBatch:
    columns = scored.of_part(scored.num_done, len(rows))
    scored.num_done += len(rows)
    place = rows.schema.get_field_index("score")
    kind = rows.schema.field(place).type
    kind = kind if pa.types.is_floating(kind) else pa.float64()
    new, raw = (pa.array(values).cast(kind) for values in columns)
    return rows.set_column(place, pa.field("score", kind), new).append_column(pa.field("raw_score", kind), raw)


def _images_scored(rows: pa.RecordBatch, scored: _Scores) -> pa.RecordBatch:
    num = num_label_entries(rows)
    scores, _ = scored.of_part(scored.num_done, num)
    scored.num_done += num
    return with_calibrated_scores(rows, scores)
