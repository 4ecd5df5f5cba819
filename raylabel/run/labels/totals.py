"""Totals of the label stage, from the survey of its shards, and the images without labels with their reasons."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.dataset.image_errors import reason_kind
from raylabel.errors import InputError
from raylabel.files.committing import commit_bytes
from raylabel.files.digests import digest
from raylabel.files.reading import exists
from raylabel.files.tables import read_table
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import commit_pool_histogram
from raylabel.run.labels.shards import LABELS_FOLDER
from raylabel.run.labels.survey import COUNTS, Survey
from raylabel.schema import ERRORS


class Quarantined(NamedTuple):
    """A summary of labels/errors.parquet.

    Attributes:
        first: the first row.
        num_by_reason: number of images per kind of reason.
    """

    first: dict[str, Any]
    num_by_reason: Counter[str]


def summarise(
    run: RunFolder, survey: Survey, *, num_images: int, num_shards: int, max_bad_fraction: float
) -> dict[str, Any]:
    """Write errors.parquet, in_validation.parquet and histogram.parquet from the survey of all shards.

    Returns:
        The artifact's entries about the shards.

    Raises:
        InputError: more than `label.max_bad_fraction` of the images are quarantined.
    """
    commit_pool_histogram(run, survey.histogram)
    quarantined = write_errors(run, survey.quarantined)
    _write_tables(in_validation_uri(run), survey.in_validation)
    if survey.counts["num_images"] != num_images:
        raise RuntimeError(f"{survey.counts['num_images']} images are committed, the pool has {num_images}")
    if survey.counts["num_quarantined"] > max_bad_fraction * num_images:
        raise too_many_bad(run, quarantined, num_images=num_images, num_left=0, max_bad_fraction=max_bad_fraction)
    left_out = [table["image_id"].to_pylist() for table in survey.in_validation]
    return {
        "num_shards": num_shards,
        **{name: survey.counts[name] for name in COUNTS},
        "quarantined_by_reason": dict(quarantined.num_by_reason),
        "in_validation_digest": digest(left_out) if left_out else None,
        "num_not_compared": survey.num_not_compared,
    }


def write_errors(run: RunFolder, quarantined: Iterable[pa.Table]) -> Quarantined:
    """Write quarantined images, rows of schema.ERRORS, to labels/errors.parquet."""
    reasons = Counter[str]()
    first: dict[str, Any] = {}

    def counted() -> Iterator[pa.Table]:
        nonlocal first
        for bad in quarantined:
            reasons.update(map(reason_kind, bad["reason"].to_pylist()))
            first = first or bad.slice(0, 1).to_pylist()[0]
            yield bad

    _write_tables(_errors_uri(run), counted())
    return Quarantined(first, reasons)


def _write_tables(uri: str, tables: Iterable[pa.Table]) -> None:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, ERRORS, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    commit_bytes(uri, buffer.getvalue())


def load_errors(run: RunFolder) -> pa.Table | None:
    """Read labels/errors.parquet (schema.ERRORS), one row per quarantined image. None if nothing was labelled."""
    uri = _errors_uri(run)
    return read_table(uri) if exists(uri) else None


def load_in_validation(run: RunFolder) -> pa.Table | None:
    """Read labels/in_validation.parquet (schema.ERRORS). None if nothing was labelled, or by an earlier version."""
    uri = in_validation_uri(run)
    return read_table(uri) if exists(uri) else None


def in_validation_uri(run: RunFolder) -> str:
    """Return the file of the pool images that are left out because they are in validation."""
    return run.path(LABELS_FOLDER, "in_validation.parquet")


def _errors_uri(run: RunFolder) -> str:
    return run.path(LABELS_FOLDER, "errors.parquet")


def too_many_bad(
    run: RunFolder, quarantined: Quarantined, *, num_images: int, num_left: int, max_bad_fraction: float
) -> InputError:
    """Return the error that ends the stage when more images are quarantined than `label.max_bad_fraction` allows."""
    [(reason, num)] = quarantined.num_by_reason.most_common(1)
    left = f", with {num_left} images left to label" if num_left else ""
    return InputError(
        f"{quarantined.num_by_reason.total()} of {num_images} pool images are quarantined{left}; "
        f"label.max_bad_fraction allows {max_bad_fraction:g}. Most frequent reason: {reason} ({num}). "
        f"First: {quarantined.first['uri']} ({quarantined.first['reason']}). All: {_errors_uri(run)}. Repair the "
        "images, or raise label.max_bad_fraction and run again; committed labels are kept."
    )
