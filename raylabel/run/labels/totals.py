"""Totals of the label stage, always from committed shards; and the images that are quarantined, with their reasons."""

import io
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raylabel.calibration import ReliabilityBins
from raylabel.config import Config
from raylabel.dataset.image_errors import reason_kind
from raylabel.errors import InputError
from raylabel.files.storage import commit_bytes, commit_table, read_table_metadata
from raylabel.files.stored_file import StoredFile
from raylabel.run.classes import load_classes
from raylabel.run.folder import RunFolder
from raylabel.run.labels.histograms import HISTOGRAM_BINS, LABELS_FOLDER, histogram_from_json
from raylabel.run.labels.shards import STATUS_OK, committed_shards
from raylabel.schema import ERRORS
from raylabel.threads import READING_THREADS, map_on_threads

_COUNTS = ("num_images", "num_instances", "num_quarantined")


class Quarantined(NamedTuple):
    """What labels/errors.parquet holds, in short."""

    first: dict[str, Any]
    num_by_reason: Counter[str]


def summarise(config: Config, run: RunFolder, *, num_images: int, num_shards: int) -> dict[str, Any]:
    """What the artifact says of the committed shards; writes errors.parquet and histogram.parquet.

    Raises:
        InputError: more than `label.max_bad_fraction` of the images are quarantined.
    """
    totals: Counter[str] = Counter()
    with_bad: list[str] = []
    histogram = ReliabilityBins.zeros(load_classes(run).num_classes, HISTOGRAM_BINS)
    uris = list(committed_shards(run).values())
    for uri, metadata in zip(uris, map_on_threads(read_table_metadata, uris, num_threads=READING_THREADS), strict=True):
        totals.update({name: int(metadata[name]) for name in _COUNTS})
        histogram += ReliabilityBins.from_table(histogram_from_json(metadata["histogram"]))
        if int(metadata["num_quarantined"]):
            with_bad.append(uri)
    commit_table(run.path(LABELS_FOLDER, "histogram.parquet"), histogram.to_table())
    quarantined = write_errors(run, with_bad)
    if totals["num_images"] != num_images:
        raise RuntimeError(f"{totals['num_images']} images are committed, the pool has {num_images}")
    if totals["num_quarantined"] > config.label.max_bad_fraction * num_images:
        raise too_many_bad(config, run, quarantined, num_images=num_images, num_left=0)
    return {
        "num_shards": num_shards,
        **{name: totals[name] for name in _COUNTS},
        "quarantined_by_reason": dict(quarantined.num_by_reason),
    }


def write_errors(run: RunFolder, shard_uris: Iterable[str]) -> Quarantined:
    """Write the quarantined images of these shards to labels/errors.parquet."""
    buffer, reasons = io.BytesIO(), Counter[str]()
    first: dict[str, Any] = {}
    with pq.ParquetWriter(buffer, ERRORS, compression="zstd") as writer:
        for uri in shard_uris:
            bad = _bad_images(uri)
            writer.write_table(bad)
            reasons.update(map(reason_kind, bad["reason"].to_pylist()))
            first = first or bad.slice(0, 1).to_pylist()[0]
    commit_bytes(run.path(LABELS_FOLDER, "errors.parquet"), buffer.getvalue())
    return Quarantined(first, reasons)


def too_many_bad(
    config: Config, run: RunFolder, quarantined: Quarantined, *, num_images: int, num_left: int
) -> InputError:
    """Why the stage ends where more images are quarantined than `label.max_bad_fraction` lets through."""
    [(reason, num)] = quarantined.num_by_reason.most_common(1)
    left = f", whatever the {num_left} that are left are like" if num_left else ""
    return InputError(
        f"{quarantined.num_by_reason.total()} of {num_images} images of the pool are quarantined, more than "
        f"label.max_bad_fraction {config.label.max_bad_fraction:g}{left}; most often ({num}): {reason}; the first is "
        f"{quarantined.first['uri']} ({quarantined.first['reason']}), all are in "
        f"{run.path(LABELS_FOLDER, 'errors.parquet')}; give a larger fraction to go on with the labels that there are"
    )


def _bad_images(shard_uri: str) -> pa.Table:
    with StoredFile(shard_uri) as file:
        rows = pq.ParquetFile(file).read(columns=["image_id", "uri", "status"])
    bad = [{"reason": row.pop("status"), **row} for row in rows.to_pylist() if row["status"] != STATUS_OK]
    return pa.Table.from_pylist(bad, schema=ERRORS)
