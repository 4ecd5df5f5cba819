"""The survey of committed shards: in one pass over them, everything that the end of the label stage counts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylabel.calibration import Detections, ImageCounts, ReliabilityBins
from raylabel.config import SelectionConfig
from raylabel.run.classes import RunClasses
from raylabel.run.folder import RunFolder
from raylabel.run.labels.class_fates import ClassFates
from raylabel.run.labels.histograms import HISTOGRAM_BINS, histogram_from_json
from raylabel.run.labels.kept import SELECTED_BY, count_fates
from raylabel.run.labels.shards import (
    IN_VALIDATION,
    STATUS_OK,
    committed_shards,
    flat_instances,
    is_quarantined,
    metadata_texts,
    read_fields,
    shard_groups,
)
from raylabel.schema import ERRORS
from raylabel.threads import READING_THREADS, Map, map_on_threads

COUNTS = ("num_images", "num_instances", "num_quarantined", "num_in_validation")
"""Entries of a shard's metadata that add up."""

_FIELDS = ("status", "raw_score", *SELECTED_BY.values())


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Counts over shards. Those of disjoint shards add up.

    Attributes:
        counts: sums of COUNTS.
        num_not_compared: images of shards that were not compared with the validation split.
        correctors: digests of the correctors that made the shards.
        histogram: raw scores of all predictions. Their truth is unknown.
        image_counts: the same scores by image, for drift. Unreadable images do not count.
        fates: what the selection makes of the predictions of each class.
        quarantined, in_validation: rows of schema.ERRORS, a table for each shard that has any, in the order of shards.
    """

    counts: Counter[str]
    num_not_compared: int
    correctors: frozenset[str]
    histogram: ReliabilityBins
    image_counts: ImageCounts
    fates: ClassFates
    quarantined: tuple[pa.Table, ...]
    in_validation: tuple[pa.Table, ...]

    @staticmethod
    def of_nothing(num_classes: int) -> "Survey":
        """Return the counts of no shard."""
        return Survey(
            counts=Counter(),
            num_not_compared=0,
            correctors=frozenset(),
            histogram=ReliabilityBins.zeros(num_classes, HISTOGRAM_BINS),
            image_counts=ImageCounts.zeros(num_classes, HISTOGRAM_BINS),
            fates=ClassFates.none(num_classes),
            quarantined=(),
            in_validation=(),
        )

    def __add__(self, other: "Survey") -> "Survey":
        return Survey(
            counts=self.counts + other.counts,
            num_not_compared=self.num_not_compared + other.num_not_compared,
            correctors=self.correctors | other.correctors,
            histogram=self.histogram + other.histogram,
            image_counts=self.image_counts + other.image_counts,
            fates=self.fates + other.fates,
            quarantined=self.quarantined + other.quarantined,
            in_validation=self.in_validation + other.in_validation,
        )


def survey_labels(
    run: RunFolder, selection: SelectionConfig, classes: RunClasses, *, map_groups: Map = map_on_threads
) -> Survey:
    """Survey all committed shards. Masks and soft vectors, most of their bytes, are not read.

    Args:
        run: the run folder.
        selection: decides the fates.
        classes: the run's classes.
        map_groups: does the work on groups of shards.
    """
    look = partial(_survey_shards, selection=selection, frequency_groups=classes.frequency_groups)
    groups = shard_groups(list(committed_shards(run).values()))
    return sum(map_groups(look, groups), start=Survey.of_nothing(classes.num_classes))


def _survey_shards(uris: Sequence[str], *, selection: SelectionConfig, frequency_groups: NDArray[np.str_]) -> Survey:
    tables = list(map_on_threads(partial(read_fields, fields=_FIELDS), uris, num_threads=READING_THREADS))
    metadata = [metadata_texts(one.schema) for one in tables]
    readable = pa.concat_tables([one.replace_schema_metadata(None) for one in tables], promote_options="default")
    readable = readable.filter(pc.equal(readable["status"], STATUS_OK))
    histograms = [ReliabilityBins.from_table(histogram_from_json(one["histogram"])) for one in metadata]
    return Survey(
        counts=Counter({name: sum(int(one.get(name, 0)) for one in metadata) for name in COUNTS}),
        # Earlier versions did not compare.
        num_not_compared=sum(int(one["num_images"]) for one in metadata if "num_in_validation" not in one),
        correctors=frozenset(one["corrector"] for one in metadata),
        histogram=sum(histograms[1:], start=histograms[0]),
        image_counts=count_by_image(readable, num_classes=len(frequency_groups), num_bins=HISTOGRAM_BINS),
        fates=count_fates(readable, selection, frequency_groups),
        quarantined=_unlabelled(uris, metadata, "num_quarantined", is_quarantined),
        in_validation=_unlabelled(uris, metadata, "num_in_validation", _is_in_validation),
    )


def count_by_image(readable: pa.Table, *, num_classes: int, num_bins: int) -> ImageCounts:
    """Count the predictions of readable images, rows of schema.LABELS, by class and raw score."""
    structs, lengths = flat_instances(readable["instances"])
    scores = Detections.of_scores(
        structs.field("class_index").to_numpy(), structs.field("raw_score").to_numpy(), num_classes=num_classes
    )
    detections = replace(scores, image_indices=np.repeat(np.arange(len(lengths)), lengths))
    return ImageCounts.from_detections(detections, num_images=len(lengths), num_bins=num_bins)


def _unlabelled(
    uris: Sequence[str], metadata: Sequence[Mapping[str, str]], count: str, is_wanted: Callable[[str], bool]
) -> tuple[pa.Table, ...]:
    with_any = [uri for uri, one in zip(uris, metadata, strict=True) if int(one.get(count, 0))]
    return tuple(map_on_threads(partial(unlabelled_images, is_wanted=is_wanted), with_any, num_threads=READING_THREADS))


def unlabelled_images(shard_uri: str, is_wanted: Callable[[str], bool] = is_quarantined) -> pa.Table:
    """Read the images of a shard whose status is wanted, rows of schema.ERRORS."""
    rows = read_fields(shard_uri, ("image_id", "uri", "status")).to_pylist()
    wanted = [{"reason": row.pop("status"), **row} for row in rows if is_wanted(row["status"])]
    return pa.Table.from_pylist(wanted, schema=ERRORS)


def _is_in_validation(status: str) -> bool:
    return status.startswith(IN_VALIDATION)
