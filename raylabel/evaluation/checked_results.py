"""Checked ground truth and results, and their figures. Results stream through their match rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from hotcoco import StreamingEval
from numpy.typing import NDArray

from raylabel.dataset.fields import places_by_name
from raylabel.errors import InputError
from raylabel.evaluation.checked_input import CheckedAnnotations, IouType, checked_annotations
from raylabel.evaluation.match_rows import Figures, MergedRows, Protocol, figures, match_rows
from raylabel.evaluation.sample import Sample, draw_sample
from raylabel.files.json_files import read_json
from raylabel.predictions.results_by_image import ImageRows, RowGroup, RowsByImage, read_images
from raylabel.predictions.results_columns import Wanted, iter_columns
from raylabel.predictions.results_file import check_entries
from raylabel.predictions.results_parts import Results
from raylabel.processes import map_on_processes

_Truth = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Some images and their annotations, in hotcoco's form."""


@dataclass(frozen=True, kw_only=True)
class CheckedResults:
    """Checked ground truth and detections.

    Attributes:
        truth: ground truth, with numbers as ids of images and categories.
        protocol: how detections are evaluated.
        results: the results, which were checked.
        names: names of annotations and results, for messages.
        parts: match rows of each part of the images, without empty parts.
        num_of_image: (num_images,) number of detections of each image.
        num_boxed: number of detections with a `bbox`.
        sampled: (num_images,) whether an image is in the sample that is verified. There may be no sample.
        sampled_parts: match rows of the sample.
    """

    truth: CheckedAnnotations
    protocol: Protocol
    results: Results
    names: tuple[str, str]
    parts: tuple[StreamingEval, ...]
    num_of_image: NDArray[np.int64]
    num_boxed: int
    sampled: NDArray[np.bool_]
    sampled_parts: tuple[StreamingEval, ...]

    @property
    def dataset(self) -> dict[str, Any]:
        """Images, annotations and categories in hotcoco's form."""
        return self.truth.dataset

    @property
    def iou_type(self) -> IouType:
        """What is compared: "segm" or "bbox"."""
        return self.protocol.iou_type

    @property
    def is_federated(self) -> bool:
        """Whether LVIS's protocol applies."""
        return self.protocol.is_federated

    @property
    def num_images(self) -> int:
        """Number of all images."""
        return len(self.dataset["images"])

    @property
    def num_images_without_detection(self) -> int:
        """Number of images that no detection names."""
        return int((self.num_of_image == 0).sum())

    def figures(self) -> Figures:
        """Compute the figures that `evaluate_results` returns."""
        return figures(self.protocol, self.parts)

    def sample_figures(self) -> Figures:
        """Compute the figures on the sample."""
        return figures(self.protocol, self.sampled_parts)

    def sample(self) -> Sample:
        """Read the results again, and return the sample. Detections have the order of the results."""
        wanted = _wanted(self.truth, self.protocol, self.names[1])
        with TemporaryDirectory() as folder:
            rows = RowsByImage(folder, list(self.truth.image_numbers))
            for batch in iter_columns(self.results, wanted):
                rows.add(batch.filter(pa.array(self.sampled[batch["image"].to_numpy()])))
            found = [
                (int(entry), one)
                for group in rows.groups()
                for image in read_images(group, wanted)
                for entry, one in zip(image.entries, _detections(image), strict=True)
            ]
        images = {one["id"] for one in self.dataset["images"] if self.sampled[one["id"] - 1]}
        return Sample(
            dataset=self.dataset
            | {
                "images": [one for one in self.dataset["images"] if one["id"] in images],
                "annotations": [one for one in self.dataset["annotations"] if one["image_id"] in images],
            },
            detections=[one for _, one in sorted(found, key=lambda entry: entry[0])],
            iou_type=self.iou_type,
            is_federated=self.is_federated,
            of_images=self.num_images,
        )


def check_results(
    annotations: str | Path | dict[str, Any],
    results: str | Path | list[dict[str, Any]],
    *,
    iou_type: IouType = "segm",
    frequency_groups: Mapping[int, str] | None = None,
    num_parts: int = 1,
    seed: int = 0,
    has_sample: bool = False,
) -> CheckedResults:
    """Read, check and match results. The other arguments and the errors are those of `evaluate_results`.

    Args:
        num_parts: number of parts that the images are dealt out to at random. There are never more parts than images.
        seed: seed of the parts.
        has_sample: whether an official evaluator gets a sample of the images.
    """
    if iou_type not in ("segm", "bbox"):
        raise InputError(f"iou_type must be segm or bbox, got {iou_type!r}")
    annotations = str(annotations) if isinstance(annotations, Path) else annotations
    results = str(results) if isinstance(results, Path) else results
    where = annotations if isinstance(annotations, str) else "annotations"
    results_where = results if isinstance(results, str) else "results"
    content = read_json(annotations) if isinstance(annotations, str) else annotations
    truth = checked_annotations(content, iou_type, frequency_groups, where)
    if not isinstance(results, str):
        check_entries(results, results_where)
    protocol = protocol_of(truth, iou_type, frequency_groups)
    part_of = deal_out(len(truth.image_numbers), num_parts, seed=seed)
    try:
        return _match(truth, protocol, results, (where, results_where), part_of, has_sample=has_sample)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where} with {results_where}: {' '.join(str(error).split())}") from error


def protocol_of(truth: CheckedAnnotations, iou_type: IouType, groups: Mapping[int, str] | None) -> Protocol:
    """Return how detections of these images are evaluated. `groups` are those of `evaluate_results`."""
    numbers = truth.category_numbers
    return Protocol(
        categories=truth.dataset["categories"],
        iou_type=iou_type,
        is_federated=truth.is_federated,
        frequency_groups=groups and {numbers[one]: group for one, group in groups.items() if one in numbers},
    )


def deal_out(num_images: int, num_parts: int, *, seed: int) -> NDArray[np.int64]:
    """Return the part of each image, (num_images,). The parts are about equally large."""
    part_of = np.zeros(num_images, dtype=np.int64)
    parts = np.array_split(np.random.default_rng(seed).permutation(num_images), max(1, min(num_parts, num_images)))
    for number, part in enumerate(parts):
        part_of[part] = number
    return part_of


def _match(
    truth: CheckedAnnotations,
    protocol: Protocol,
    results: Results,
    names: tuple[str, str],
    part_of: NDArray[np.int64],
    *,
    has_sample: bool,
) -> CheckedResults:
    wanted, ignores_boxes = _wanted(truth, protocol, names[1]), False
    num_of_image, num_boxed, sampled = np.zeros(len(part_of), np.int64), 0, np.zeros(len(part_of), dtype=bool)
    merged, num_parts = MergedRows(), int(part_of.max()) + 1
    with TemporaryDirectory() as folder:
        rows = RowsByImage(folder, list(truth.image_numbers))
        for batch in iter_columns(results, wanted):
            if len(batch) and batch["entry"][0].as_py() == 0:
                # lvis-api does so: without a box in the first detection, masks tell the sizes of all.
                ignores_boxes = truth.is_federated and not batch["box_xywh"][0].is_valid
            num_of_image += np.bincount(batch["image"].to_numpy(), minlength=len(part_of))
            num_boxed += len(batch) - batch["box_xywh"].null_count
            rows.add(batch)
        if has_sample:
            sampled = draw_sample(num_of_image)
        work = partial(_match_group, protocol, replace(wanted, with_boxes=not ignores_boxes))
        # The sample is kept apart, so that its figures come from the match rows of all figures.
        groups = _groups_with_truth(rows, truth, part_of + num_parts * sampled)
        for _, found in map_on_processes(work, groups):
            for group, content in found.items():
                merged.add(group, content)
    return CheckedResults(
        truth=truth,
        protocol=protocol,
        results=results,
        names=names,
        parts=tuple(merged.of(range(2 * num_parts))),
        num_of_image=num_of_image,
        num_boxed=num_boxed,
        sampled=sampled,
        sampled_parts=tuple(merged.of(range(num_parts, 2 * num_parts))),
    )


def _groups_with_truth(
    rows: RowsByImage, truth: CheckedAnnotations, group_of: NDArray[np.int64]
) -> Iterator[tuple[RowGroup, dict[int, _Truth]]]:
    """Yield files of images, also those without a detection, with the truth of each group of their images."""
    annotations: dict[int, list[dict[str, Any]]] = {}
    for one in truth.dataset["annotations"]:
        annotations.setdefault(one["image_id"], []).append(one)
    images = truth.dataset["images"]
    for file in rows.groups(with_empty=True):
        of_groups: dict[int, _Truth] = {}
        for place in range(file.first_image, file.first_image + len(file.names)):
            some_images, some_annotations = of_groups.setdefault(int(group_of[place]), ([], []))
            some_images.append(images[place])
            some_annotations += annotations.get(images[place]["id"], [])
        yield file, of_groups


def _match_group(protocol: Protocol, wanted: Wanted, file: tuple[RowGroup, dict[int, _Truth]]) -> dict[int, bytes]:
    """Return the match rows of the images of a file by group."""
    rows, of_groups = file
    detections = {one.image + 1: _detections(one) for one in read_images(rows, wanted)}
    return {
        group: match_rows(
            protocol, images, annotations, [one for image in images for one in detections.get(image["id"], ())]
        )
        for group, (images, annotations) in of_groups.items()
    }


def _wanted(truth: CheckedAnnotations, protocol: Protocol, where: str) -> Wanted:
    return Wanted(
        where=where,
        places=places_by_name(
            list(truth.image_numbers), truth.file_names, [number - 1 for number in truth.image_numbers.values()]
        ),
        classes=truth.category_numbers,
        are_probabilities=False,
        with_masks=protocol.iou_type == "segm",
        sizes_hw={number - 1: size_hw for number, size_hw in truth.sizes_hw.items()},
        with_boxes=True,
        must_have_box=protocol.iou_type == "bbox",
    )


def _detections(rows: ImageRows) -> list[dict[str, Any]]:
    """Return the detections of an image in hotcoco's form."""
    masks = [{"segmentation": mask} for mask in rows.masks] or [{}] * len(rows.entries)
    boxes = rows.boxes_xywh or [None] * len(rows.entries)
    return [
        {"image_id": rows.image + 1, "category_id": category, "score": score}
        | mask
        | ({} if box is None else {"bbox": box})
        for category, score, mask, box in zip(
            rows.class_indices.tolist(), rows.scores.tolist(), masks, boxes, strict=True
        )
    ]
