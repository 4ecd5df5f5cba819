"""An annotated set as its evaluation needs it. Driver and workers open it alike, and see the truth of some images."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from raylabel.dataset.annotations import AnnotatedSet
from raylabel.evaluation.checked_input import CheckedAnnotations, checked_annotations, numbered
from raylabel.evaluation.checked_results import deal_out, protocol_of
from raylabel.evaluation.match_rows import LVIS_MAX_DETECTIONS, Protocol, match_rows
from raylabel.evaluation.precision_intervals import NUM_PARTS
from raylabel.evaluation.sample import draw_sample

DETECTION = pa.struct(
    [("image", pa.int32()), ("category", pa.int32()), ("score", pa.float64()), ("mask_counts", pa.binary())]
)
"""A detection with the numbers of its image and category, see `CheckedAnnotations`."""

MATCHES = pa.schema(
    [("model", pa.string()), ("group", pa.int32()), ("match_rows", pa.binary()), ("detections", pa.list_(DETECTION))]
)
"""Match rows of one model on images of one group, see `EvaluatedSet`. Only images of the sample have detections."""

Results = Mapping[int | str, Sequence[Mapping[str, Any]]]
"""Image id -> what `average_precision.results_of_image` makes."""


class EvaluatedSet:
    """An annotated set whose images are dealt out to groups.

    The group of an image is its part of the jackknife. It is NUM_PARTS more if the image is in the sample that an
    official evaluator gets.

    Args:
        annotated: the set.
        frequency_groups: see `evaluate_results`.
        has_sample: whether there is a sample.
        seed: seed of the parts, see `jackknife_results`.
    """

    def __init__(
        self,
        annotated: AnnotatedSet,
        *,
        frequency_groups: Mapping[int, str] | None = None,
        has_sample: bool = False,
        seed: int = 0,
    ) -> None:
        self._annotated, self._frequency_groups = annotated, frequency_groups
        self._ids = annotated.images.ids()
        self._number_of: dict[int | str, int] = numbered(self._ids)
        self._groups = deal_out(len(self._ids), NUM_PARTS, seed=seed)
        if has_sample:
            self._groups[draw_sample(np.full(len(self._ids), LVIS_MAX_DETECTIONS))] += NUM_PARTS

    @cached_property
    def protocol(self) -> Protocol:
        """How detections are evaluated."""
        return protocol_of(self.truth([0]), "segm", self._frequency_groups)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self._ids)

    def truth(self, rows: Iterable[int]) -> CheckedAnnotations:
        """Return the truth of some images, at least one. Images have their numbers among all images of the set."""
        content = self._annotated.subset(rows).to_json()
        return checked_annotations(
            content, "segm", self._frequency_groups, "annotations", image_numbers=self._number_of
        )

    def truth_of_sample(self) -> CheckedAnnotations:
        """Return the truth of the sample."""
        return self.truth(row for row, one in enumerate(self._ids) if self._group(self._number_of[one]) >= NUM_PARTS)

    def match(self, model: str, truth: CheckedAnnotations, results: Results) -> pa.Table:
        """Match a model's results of some images, and return rows of MATCHES.

        Args:
            model: name of the model.
            truth: the truth of the images.
            results: the results of all of these images.
        """
        annotations: dict[int, list[dict[str, Any]]] = {}
        for one in truth.dataset["annotations"]:
            annotations.setdefault(one["image_id"], []).append(one)
        found = {truth.image_numbers[image_id]: of_image for image_id, of_image in results.items()}
        images: dict[int, list[dict[str, Any]]] = {}
        for image in truth.dataset["images"]:
            images.setdefault(self._group(image["id"]), []).append(image)
        rows = []
        for group, some in sorted(images.items()):
            numbers = [image["id"] for image in some]
            detections = [
                {**one, "image_id": number, "category_id": truth.category_numbers[one["category_id"]]}
                for number in numbers
                for one in found[number]
            ]
            objects = [one for number in numbers for one in annotations.get(number, ())]
            content = match_rows(self.protocol, some, objects, detections)
            sampled = list(map(_stored, detections)) if group >= NUM_PARTS else None
            rows.append({"model": model, "group": group, "match_rows": content, "detections": sampled})
        return pa.Table.from_pylist(rows, schema=MATCHES)

    def _group(self, number: int) -> int:
        return int(self._groups[number - 1])


def _stored(detection: Mapping[str, Any]) -> dict[str, Any]:
    """Return a detection as a value of DETECTION."""
    counts = detection["segmentation"]["counts"].encode()
    image, category, score = (detection[name] for name in ("image_id", "category_id", "score"))
    return {"image": image, "category": category, "score": score, "mask_counts": counts}
