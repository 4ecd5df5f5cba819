"""Verification of figures by the official evaluators: lvis-api for LVIS data, pycocotools for COCO data.

raylabel computes AP and AR with hotcoco. The official evaluators compute them a second time, from the same checked
data. They hold all detections as Python objects, and loop over images, classes and object sizes in Python. Where there
are many detections, they get a sample of the images.
"""

import importlib
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from raylabel.errors import InputError
from raylabel.evaluation.checked_results import CheckedResults
from raylabel.evaluation.match_rows import LVIS_MAX_DETECTIONS
from raylabel.evaluation.sample import Sample
from raylabel.evaluation.streamed_precision import StreamedPrecision
from raylabel.masks.segmentation import rle_from_segmentation

TOLERANCE = 1e-6
"""Largest difference at which two evaluators agree. Rounding alone gives about 1e-15."""

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The figures of pycocotools, in the order of its `stats`."""

Figures = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Comparison of raylabel's figures with those of an official evaluator.

    Attributes:
        evaluator: "lvis-api" or "pycocotools".
        version: the evaluator's version.
        num_figures: number of compared figures: those that both give.
        largest_difference: largest absolute difference. A figure without ground truth counts as -1, as the official
            evaluators give it.
        figure: name of the figure that differs most.
        num_images: number of images that both evaluated.
        of_images: number of images that these were drawn from.
        model: model that the figure belongs to; None for a results file.
    """

    evaluator: str
    version: str
    num_figures: int
    largest_difference: float
    figure: str
    num_images: int
    of_images: int
    model: str | None = None

    @property
    def agrees(self) -> bool:
        """Whether the largest difference is at most TOLERANCE."""
        return self.largest_difference <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """All attributes and `agrees`."""
        return asdict(self) | {"agrees": self.agrees}


def verify_sample(sample: Sample, figures: Figures) -> Verification:
    """Compare figures with those that the official evaluator gives for the same images.

    Args:
        sample: the images.
        figures: raylabel's figures on these images.

    Raises:
        InputError: the official evaluator is not installed.
    """
    evaluate = _lvis_figures if sample.is_federated else _coco_figures
    official = evaluate(sample)
    gaps = {name: abs(_as_number(figures[name]) - value) for name, value in official.items() if name in figures}
    figure = max(gaps, key=lambda name: gaps[name])
    evaluator, package = ("lvis-api", "lvis") if sample.is_federated else ("pycocotools", "pycocotools")
    return Verification(
        evaluator=evaluator,
        version=version(package),
        num_figures=len(gaps),
        largest_difference=gaps[figure],
        figure=figure,
        num_images=len(sample.dataset["images"]),
        of_images=sample.of_images,
    )


def verify_results(checked: CheckedResults, figures: Figures) -> Verification:
    """Compare the figures of a results file with the official evaluator's.

    Args:
        checked: the evaluated data, from `check_results` with a sample.
        figures: the figures on all images. They are compared if the sample has all images, else those of the sample.

    Raises:
        InputError: the official evaluator is not installed, or only some of the detections have a `bbox`.
    """
    _refuse_mixed_boxes(checked)
    return verify_sample(checked.sample(), figures if checked.sampled.all() else checked.sample_figures())


def verify_models(precision: StreamedPrecision, figures: Mapping[str, Figures]) -> Verification:
    """Compare the figures of several models on the same images, and return the largest difference of all.

    Args:
        precision: the evaluated models, of a set with a sample.
        figures: model name -> its figures on all images. See `verify_results`.

    Raises:
        InputError: see `verify_sample`.
    """
    compared = [replace(_verify_model(precision, name, figures[name]), model=name) for name in precision.models]
    worst = max(compared, key=lambda one: one.largest_difference)
    return replace(worst, num_figures=sum(one.num_figures for one in compared))


def _verify_model(precision: StreamedPrecision, model: str, figures: Figures) -> Verification:
    sample = precision.sample(model)
    is_whole = len(sample.dataset["images"]) == sample.of_images
    return verify_sample(sample, figures if is_whole else precision.sample_figures(model))


def require_evaluators() -> None:
    """Load both official evaluators, so that a missing one is found before any work.

    Raises:
        InputError: one can't be loaded; the message says which and why.
    """
    _load("pycocotools.cocoeval", "pycocotools")
    _load("lvis.eval", "lvis")


def _as_number(figure: float | None) -> float:
    return -1.0 if figure is None else figure


def _refuse_mixed_boxes(checked: CheckedResults) -> None:
    """The official evaluators look at the first detection only, and take all others to be like it."""
    num_detections = int(checked.num_of_image.sum())
    if 0 < checked.num_boxed < num_detections:
        raise InputError(
            f"{checked.names[1]}: {checked.num_boxed} of {num_detections} detections have a bbox, and the official "
            "evaluators need one in all or in none. Add the others, or evaluate without verification."
        )


def _coco_figures(sample: Sample) -> dict[str, float]:
    cocoeval, coco = _load("pycocotools.cocoeval", "pycocotools"), _load("pycocotools.coco", "pycocotools")
    with _replaced(coco, "print", _silent), _replaced(cocoeval, "print", _silent):
        truth = coco.COCO()
        truth.dataset = _truth(sample)
        truth.createIndex()
        rows = _detections(sample)
        if rows:
            results = truth.loadRes(rows)
        else:  # because `loadRes` can't read an empty list
            results = coco.COCO()
            results.dataset = truth.dataset | {"annotations": []}
            results.createIndex()
        evaluation = cocoeval.COCOeval(truth, results, sample.iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(COCO_NAMES, evaluation.stats, strict=True)}


def _lvis_figures(sample: Sample) -> dict[str, float]:
    lvis = _load("lvis.eval", "lvis")
    dataset, rows = _truth(sample), _detections(sample)
    for category in dataset["categories"]:
        if category.get("frequency") not in ("r", "c", "f"):
            category["frequency"] = ""

    # Their bases are loaded by name above, so mypy does not know them.
    class Truth(lvis.LVIS):  # type: ignore[name-defined, misc]
        def _load_json(self, path: str) -> Any:
            return dataset

    class Results(lvis.LVISResults):  # type: ignore[name-defined, misc]
        def _load_json(self, path: str) -> Any:
            return rows

    truth = Truth("annotations")
    if rows:
        results = Results(truth, "results", LVIS_MAX_DETECTIONS)
    else:  # because the constructor can't read an empty list
        results = Results.__new__(Results)
        results.dataset, results.logger = dataset | {"annotations": []}, truth.logger
        results._create_index()
    evaluation = lvis.LVISEval(truth, results, sample.iou_type)
    evaluation.params.img_count_lbl = ["r", "c", "f", ""]  # the last group is of classes without a frequency
    with numpy_float(lvis):
        evaluation.run()
    return {name: float(value) for name, value in evaluation.get_results().items()}


def _truth(sample: Sample) -> dict[str, Any]:
    """A copy of the ground truth, because the evaluators write into it."""
    return {name: [dict(one) for one in rows] for name, rows in sample.dataset.items()}


def _detections(sample: Sample) -> list[dict[str, Any]]:
    """Copies of the detections with masks as compressed RLE, the only form that both evaluators read."""
    sizes_hw = {image["id"]: (image["height"], image["width"]) for image in sample.dataset["images"]}
    copies = []
    for one in sample.detections:
        copy, mask = dict(one), one.get("segmentation")
        if isinstance(mask, list) or (isinstance(mask, dict) and isinstance(mask["counts"], list)):
            copy["segmentation"] = rle_from_segmentation(mask, sizes_hw[one["image_id"]], check=False)
        copies.append(copy)
    return copies


_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a name of one module another value inside the block; other modules keep theirs.

    Other threads wait for the block to end before they replace a name.
    """
    with _ONE_AT_A_TIME:
        had, before = name in vars(module), vars(module).get(name)
        setattr(module, name, value)
        try:
            yield
        finally:
            if had:
                setattr(module, name, before)
            else:
                delattr(module, name)


@contextmanager
def numpy_float(module: Any) -> Iterator[None]:
    """Let a module use `np.float` inside the block.

    lvis-api 0.5.3 uses `np.float`, but NumPy 1.24 removed that name. NumPy itself is not changed.
    """
    with _replaced(module, "np", _NumpyWithFloat(module.np)):
        yield


class _NumpyWithFloat:
    """NumPy with the name `float`."""

    float = float

    def __init__(self, numpy: Any) -> None:
        self._numpy = numpy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._numpy, name)


def _silent(*values: Any, **options: Any) -> None:
    pass


def _load(module: str, package: str) -> Any:
    """Import an evaluator.

    Raises:
        InputError: it is not installed, or a library that it needs is missing.
    """
    handlers = logging.root.handlers[:]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--verify: the package {package} can't be loaded: {reason}. Install it with what it needs; if libGL is "
            "missing, opencv-python-headless in place of opencv-python is enough."
        ) from error
    finally:
        logging.root.handlers[:] = handlers  # because lvis sets up logging for the whole process when it is imported
