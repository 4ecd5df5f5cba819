"""AP and its intervals of several models on the same images, from results that come shard by shard."""

from collections.abc import Mapping, Sequence
from typing import Any

from raylabel.evaluation.checked_input import checked_annotations
from raylabel.evaluation.checked_results import deal_out, protocol_of
from raylabel.evaluation.match_rows import match_rows, merge_rows
from raylabel.evaluation.precision_intervals import NUM_PARTS, JackknifedFigures, jackknifed_figures


class StreamedPrecision:
    """Match rows of several models. Memory does not hold the results.

    Args:
        annotations: COCO or LVIS content, see `evaluate_results`.
        frequency_groups: see `evaluate_results`.
        seed: seed of the parts of the images, see `jackknife_results`.

    Raises:
        InputError: see `evaluate_results`.
    """

    def __init__(
        self, annotations: dict[str, Any], *, frequency_groups: Mapping[int, str] | None = None, seed: int = 0
    ) -> None:
        self._truth = checked_annotations(annotations, "segm", frequency_groups, "annotations")
        self._protocol = protocol_of(self._truth, "segm", frequency_groups)
        self._part_of = deal_out(len(self._truth.image_numbers), NUM_PARTS, seed=seed)
        self._images = {one["id"]: one for one in self._truth.dataset["images"]}
        self._annotations: dict[int, list[dict[str, Any]]] = {number: [] for number in self._images}
        for one in self._truth.dataset["annotations"]:
            self._annotations[one["image_id"]].append(one)
        self._rows: dict[str, dict[int, list[bytes]]] = {}

    def add(self, model: str, results: Mapping[int | str, Sequence[Mapping[str, Any]]]) -> None:
        """Match the results of some images: image id -> what `average_precision.results_of_image` makes.

        Every image must come once per model, also one without a result.
        """
        of_parts: dict[int, list[tuple[int, Sequence[Mapping[str, Any]]]]] = {}
        for image_id, found in results.items():
            number = self._truth.image_numbers[image_id]
            of_parts.setdefault(int(self._part_of[number - 1]), []).append((number, found))
        for part, of_images in of_parts.items():
            content = match_rows(
                self._protocol,
                [self._images[number] for number, _ in of_images],
                [one for number, _ in of_images for one in self._annotations[number]],
                [
                    {
                        **one,
                        "image_id": number,
                        "category_id": self._truth.category_numbers[one["category_id"]],
                    }
                    for number, found in of_images
                    for one in found
                ],
            )
            self._rows.setdefault(model, {}).setdefault(part, []).append(content)

    def measured(self) -> dict[str, JackknifedFigures]:
        """Compute the figures of every model, in the order in which the models came."""
        return {
            model: jackknifed_figures(
                self._protocol, [merge_rows(of_part) for _, of_part in sorted(rows.items())], len(self._images)
            )
            for model, rows in self._rows.items()
        }
