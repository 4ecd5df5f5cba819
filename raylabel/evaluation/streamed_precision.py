"""AP and its intervals of several models on the same images, from match rows that come shard by shard."""

from functools import cached_property
from typing import Any

import pyarrow as pa
from hotcoco import StreamingEval

from raylabel.evaluation.checked_input import CheckedAnnotations
from raylabel.evaluation.evaluated_set import EvaluatedSet
from raylabel.evaluation.match_rows import Figures, MergedRows, figures
from raylabel.evaluation.precision_intervals import NUM_PARTS, JackknifedFigures, jackknifed_figures
from raylabel.evaluation.sample import Sample


class StreamedPrecision:
    """Merged match rows of several models. Memory holds the results of the sample alone.

    Args:
        evaluated: the evaluated set.
    """

    def __init__(self, evaluated: EvaluatedSet) -> None:
        self._evaluated = evaluated
        self._rows: dict[str, MergedRows] = {}
        self._sampled: dict[str, list[pa.StructArray]] = {}

    def add(self, matches: pa.Table) -> None:
        """Add rows of MATCHES. Every image must come once per model, also one without a result."""
        columns = (matches[name].to_pylist() for name in ("model", "group", "match_rows"))
        for model, group, content in zip(*columns, strict=True):
            self._rows.setdefault(model, MergedRows()).add(group, content)
        for model, detections in zip(matches["model"].to_pylist(), matches["detections"], strict=True):
            if detections.is_valid:
                self._sampled.setdefault(model, []).append(detections.values)

    def measured(self) -> dict[str, JackknifedFigures]:
        """Compute the figures of every model, in the order in which the models came."""
        protocol, num_images = self._evaluated.protocol, self._evaluated.num_images
        return {model: jackknifed_figures(protocol, _parts(rows), num_images) for model, rows in self._rows.items()}

    def sample_figures(self, model: str) -> Figures:
        """Compute the figures of a model on the sample."""
        return figures(self._evaluated.protocol, self._rows[model].of(_SAMPLED))

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order in which they came."""
        return list(self._rows)

    def sample(self, model: str) -> Sample:
        """Return the sample with the detections of a model."""
        protocol, truth = self._evaluated.protocol, self._truth_of_sample
        return Sample(
            dataset=truth.dataset,
            detections=[one for part in self._sampled[model] for one in _detections(part, truth.sizes_hw)],
            iou_type=protocol.iou_type,
            is_federated=protocol.is_federated,
            of_images=self._evaluated.num_images,
        )

    @cached_property
    def _truth_of_sample(self) -> CheckedAnnotations:
        return self._evaluated.truth_of_sample()


_SAMPLED = range(NUM_PARTS, 2 * NUM_PARTS)


def _parts(rows: MergedRows) -> list[StreamingEval]:
    """Return the match rows of each part of the jackknife, those of the sample with the others."""
    parts = (rows.of([part, part + NUM_PARTS]) for part in range(NUM_PARTS))
    return [found[0] if len(found) == 1 else StreamingEval.merge(found) for found in parts if found]


def _detections(stored: pa.StructArray, sizes_hw: dict[int, tuple[int, int]]) -> list[dict[str, Any]]:
    """Return values of `evaluated_set.DETECTION` in hotcoco's form."""
    return [
        {"image_id": one["image"], "category_id": one["category"], "score": one["score"]}
        | {"segmentation": {"size": list(sizes_hw[one["image"]]), "counts": one["mask_counts"]}}
        for one in stored.to_pylist()
    ]
