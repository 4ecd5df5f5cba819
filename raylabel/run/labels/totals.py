"""Totals of the label stage, always from committed shards, and the images without labels with their reasons."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.calibration import ReliabilityBins
from raylabel.dataset.image_errors import reason_kind
from raylabel.errors import InputError
from raylabel.files.storage import commit_bytes, digest, exists, read_table
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import HISTOGRAM_BINS, commit_pool_histogram, histogram_from_json
from raylabel.run.labels.shards import (
    IN_VALIDATION,
    LABELS_FOLDER,
    committed_shards,
    is_quarantined,
    read_fields,
    read_shard_metadata,
)
from raylabel.schema import ERRORS
from raylabel.threads import READING_THREADS, map_on_threads

_COUNTS = ("num_images", "num_instances", "num_quarantined", "num_in_validation")


class Quarantined(NamedTuple):
    """A summary of labels/errors.parquet.

    Attributes:
        first: the first row.
        num_by_reason: number of images per kind of reason.
    """

    first: dict[str, Any]
    num_by_reason: Counter[str]


def summarise(run: RunFolder, *, num_images: int, num_shards: int, max_bad_fraction: float) -> dict[str, Any]:
    """Write errors.parquet, in_validation.parquet and histogram.parquet, and count the committed shards.

    Returns:
        The artifact's entries about the shards.

    Raises:
        InputError: more than `label.max_bad_fraction` of the images are quarantined.
    """
    totals: Counter[str] = Counter()
    with_bad, with_validation = list[str](), list[str]()
    num_not_compared = 0
    histogram = ReliabilityBins.zeros(load_classes(run).num_classes, HISTOGRAM_BINS)
    uris = list(committed_shards(run).values())
    for uri, metadata in zip(uris, map_on_threads(read_shard_metadata, uris, num_threads=READING_THREADS), strict=True):
        totals.update({name: int(metadata.get(name, 0)) for name in _COUNTS})
        if "num_in_validation" not in metadata:  # an earlier version made the shard
            num_not_compared += int(metadata["num_images"])
        histogram += ReliabilityBins.from_table(histogram_from_json(metadata["histogram"]))
        if int(metadata["num_quarantined"]):
            with_bad.append(uri)
        if int(metadata.get("num_in_validation", 0)):
            with_validation.append(uri)
    commit_pool_histogram(run, histogram)
    quarantined = write_errors(run, with_bad)
    in_validation = _write_in_validation(run, with_validation)
    if totals["num_images"] != num_images:
        raise RuntimeError(f"{totals['num_images']} images are committed, the pool has {num_images}")
    if totals["num_quarantined"] > max_bad_fraction * num_images:
        raise too_many_bad(run, quarantined, num_images=num_images, num_left=0, max_bad_fraction=max_bad_fraction)
    return {
        "num_shards": num_shards,
        **{name: totals[name] for name in _COUNTS},
        "quarantined_by_reason": dict(quarantined.num_by_reason),
        "in_validation_digest": in_validation,
        "num_not_compared": num_not_compared,
    }


def write_errors(run: RunFolder, shard_uris: Iterable[str]) -> Quarantined:
    """Write the quarantined images of these shards to labels/errors.parquet."""
    reasons = Counter[str]()
    first: dict[str, Any] = {}
    for bad in _write_images(_errors_uri(run), shard_uris, is_quarantined):
        reasons.update(map(reason_kind, bad["reason"].to_pylist()))
        first = first or bad.slice(0, 1).to_pylist()[0]
    return Quarantined(first, reasons)


def _write_in_validation(run: RunFolder, shard_uris: Iterable[str]) -> str | None:
    """Write the images of these shards that are in validation. Returns the digest of their ids, None without any."""
    ids: list[list[str]] = [
        left_out["image_id"].to_pylist()
        for left_out in _write_images(
            in_validation_uri(run), shard_uris, lambda status: status.startswith(IN_VALIDATION)
        )
    ]
    return digest(ids) if ids else None


def _write_images(uri: str, shard_uris: Iterable[str], is_wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
    """Yield the images of each shard whose status is wanted, as rows of schema.ERRORS. Then write all to a file."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, ERRORS, compression="zstd") as writer:
        for shard_uri in shard_uris:
            rows = read_fields(shard_uri, ("image_id", "uri", "status")).to_pylist()
            wanted = [{"reason": row.pop("status"), **row} for row in rows if is_wanted(row["status"])]
            table = pa.Table.from_pylist(wanted, schema=ERRORS)
            writer.write_table(table)
            yield table
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
