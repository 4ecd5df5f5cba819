"""`load_model`: a trained model in this process, for single images and small lists. It needs no Ray."""

import threading
import warnings
from collections.abc import Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from raylabel.calibration import Detections
from raylabel.dataset.image_errors import ImageError, ModelImageError
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.dataset.images import decode_image, opened_pixels
from raylabel.deploy.model_folder import ModelFolder, find_model
from raylabel.deploy.scored_instances import ScoredInstances
from raylabel.errors import InputError, shown, shown_error
from raylabel.files.file_systems import absolute
from raylabel.models.failures import LostDeviceError, call_on_parts
from raylabel.models.predict import predict_pixels
from raylabel.models.saved import load_segmenter
from raylabel.models.tiles import TiledImages
from raylabel.predictions.instances import Instances, instances_context
from raylabel.predictions.selection import select
from raylabel.run.folder import RunFolder

PredictableImage = str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | torch.Tensor
"""Path or URI, encoded bytes, Pillow image, (H, W, 3) uint8 array, (3, H, W) tensor of uint8 or of floats in [0, 1]."""


def load_model(
    model: str | Path | RunFolder,
    *,
    device: str | torch.device | None = None,
    teacher: bool = False,
    raw: bool = False,
) -> "TrainedModel":
    """Load a trained model with its classes, its corrector and its run's selection.

    A model's folder that was copied out of its run still loads. A warning then says what is missing.

    Args:
        model: a run, whose last student is loaded, or the folder of a saved model. A path or URI.
        device: such as "cpu" or "cuda:1". None takes a CUDA device if there is one.
        teacher: load a run's teacher, not its student.
        raw: leave the scores raw, and keep every prediction.

    Raises:
        InputError: there is no such model, or its files are damaged.

    Examples:
        >>> import numpy as np
        >>> import raylabel as rl
        >>> # run: the folder of a finished run
        >>> model = rl.load_model(run + "/student")
        >>> found = model.predict(np.zeros((64, 64, 3), np.uint8), min_score=0.0)
        >>> len(found.class_names) == len(found.calibrated_scores) == len(found.to_coco())
        True
        >>> found.draw().size
        (64, 64)
    """
    folder = find_model(model, teacher=teacher, raw=raw)
    for remark in folder.remarks:
        warnings.warn(f"{folder.uri}: {remark}", stacklevel=2)
    return TrainedModel(folder, device=device)


class TrainedModel:
    """A trained model that predicts images. Threads may share it: the model runs for one of them at a time.

    Args:
        folder: the model's files.
        device: see `load_model`.

    Attributes:
        folder: the model's files.
        device: the model's device.
    """

    def __init__(self, folder: ModelFolder, *, device: str | torch.device | None = None) -> None:
        self.folder = folder
        self.device = _device(device)
        self._segmenter, _ = load_segmenter(folder.uri, folder.config.own_classes)
        self._segmenter.to(self.device).eval()
        label = folder.config.label
        self._how = {name: getattr(label, name) for name in ("score_threshold", "max_per_image", "mask_quality")}
        self._batch_size, self._tile = label.batch_size, label.tile
        self._max_pixels = folder.config.data.max_image_pixels
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"TrainedModel({self.folder.uri!r}, device={str(self.device)!r})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all classes in the order of their index."""
        return self.folder.classes.names

    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], *, min_score: float | None = None
    ) -> list[ScoredInstances]: ...
    @overload
    def predict(self, images: PredictableImage, *, min_score: float | None = None) -> ScoredInstances: ...
    def predict(self, images: Any, *, min_score: float | None = None) -> ScoredInstances | list[ScoredInstances]:
        """Predict one image, or each image of a list.

        Images are turned by their EXIF orientation, as viewers show them. Arrays and tensors are taken as they are.

        Args:
            images: an image or a list of images, see `PredictableImage`.
            min_score: smallest calibrated score, in place of the smallest scores of the run's selection.

        Raises:
            InputError: an image can't be read or is of another kind, the model fails at it, or `min_score` is not in
                [0, 1]. The message names the image.
            StorageError: the disk or the network failed.
        """
        selection = self.folder.selecting(min_score)
        if not isinstance(images, list | tuple):
            return self._predicted([images], selection)[0]
        parts = (images[start : start + self._batch_size] for start in range(0, len(images), self._batch_size))
        return [found for part in parts for found in self._predicted(part, selection)]

    def _predicted(self, images: Sequence[Any], selection: Any) -> list[ScoredInstances]:
        """Predict some images, and those or their tiles of one size together."""
        read = [_pixels(image, self._max_pixels) for image in images]
        tiled = TiledImages(self._tile, max_per_image=self._how["max_per_image"])
        by_shape = dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]]()
        for number, tile in tiled.cut(enumerate(read)):
            assert not isinstance(tile, ImageError)
            by_shape.setdefault(tile.shape, []).append((number, tile))
        found = dict[int, ScoredInstances]()
        batches = [
            of_shape[start : start + self._batch_size]
            for of_shape in by_shape.values()
            for start in range(0, len(of_shape), self._batch_size)
        ]
        for batch in batches:
            batch_NHW3 = torch.from_numpy(np.stack([tile for _, tile in batch]))
            for (number, _), instances in zip(batch, self._call(batch_NHW3), strict=True):
                if whole := tiled.add(number, instances):
                    place, of_image = whole
                    found[place] = self._scored(images[place], read[place], of_image, selection)
        return [found[place] for place in range(len(images))]

    def _call(self, batch_NHW3: torch.Tensor) -> list[Instances | ModelImageError]:
        def call(part: range) -> list[Instances]:
            return predict_pixels(self._segmenter, batch_NHW3[part.start : part.stop], self.device, self._how)

        try:
            with self._lock:
                return call_on_parts(call, len(batch_NHW3), self.device)
        except LostDeviceError as error:
            raise InputError(f"{self.device}: the model has made the device unusable: {error}") from error

    def _scored(
        self, image: Any, pixels: NDArray[np.uint8], found: Instances | ImageError, selection: Any
    ) -> ScoredInstances:
        """Correct and select what the model found. Raises InputError if it failed."""
        if isinstance(found, ImageError):
            raise InputError(f"{_name(image)}: {found}")
        kept = ImageSource(_uri(image), (pixels.shape[0], pixels.shape[1])) if _is_place(image) else pixels
        classes, corrector = self.folder.classes, self.folder.corrector
        scores = found.raw_scores
        if corrector is not None and len(found):
            detections = Detections.of_scores(
                found.class_indices,
                found.raw_scores,
                num_classes=classes.num_classes,
                context=instances_context(found),
            )
            scores = np.asarray(corrector(detections), dtype=np.float32)
        scored = ScoredInstances(
            **{field.name: getattr(found, field.name) for field in fields(found)},
            calibrated_scores=scores,
            is_corrected=corrector is not None,
            classes=classes,
            image=kept,
            max_pixels=self._max_pixels,
        )
        chosen = select(
            calibrated_scores=scores,
            class_indices=found.class_indices,
            mask_quality=found.mask_quality,
            mask_areas=found.mask_areas,
            config=selection,
            frequency_groups=classes.frequency_groups,
        )
        return scored[chosen.keep]


def _device(device: str | torch.device | None) -> torch.device:
    try:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InputError(f"device: torch knows no {device}: {shown_error(error)}") from error


def _is_place(image: Any) -> bool:
    return isinstance(image, str | PathLike)


def _uri(image: Any) -> str:
    return absolute(str(image))


def _name(image: Any) -> str:
    return _uri(image) if _is_place(image) else "the image"


def _pixels(image: Any, max_pixels: int) -> NDArray[np.uint8]:
    """Return the pixels of an image of any kind, (H, W, 3) uint8 RGB."""
    try:
        if _is_place(image):
            return read_source(ImageSource(_uri(image)), max_pixels=max_pixels)
        if isinstance(image, bytes):
            return decode_image(image, max_pixels=max_pixels, as_displayed=True)
        if isinstance(image, Image.Image):
            return _opened(image)
    except ImageError as error:
        raise InputError(f"{_name(image)}: {error}") from error
    if isinstance(image, torch.Tensor) and image.ndim == 3 and len(image) == 3:
        if image.is_floating_point():
            if not bool(((image >= 0) & (image <= 1)).all()):
                raise InputError("a tensor of floats must be in [0, 1]")
            image = (image * 255).round()
        elif image.dtype != torch.uint8:
            raise InputError(f"a tensor must be of uint8 or floats, got {image.dtype}")
        return np.ascontiguousarray(image.detach().to("cpu", torch.uint8).permute(1, 2, 0).numpy())
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return np.ascontiguousarray(image)
    raise InputError(
        "an image must be a path, a URI, bytes, a Pillow image, an array (H, W, 3) of uint8 or a tensor (3, H, W), got "
        f"{_described(image)}"
    )


def _opened(image: Image.Image) -> NDArray[np.uint8]:
    try:
        return opened_pixels(image, as_displayed=True)
    except ImageError:
        raise
    except Exception as error:
        # Any exception, because Pillow reads the pixels only now, and its decoders raise many kinds of errors.
        raise ImageError(f"corrupt: {shown_error(error)}") from error


def _described(image: Any) -> str:
    if isinstance(image, np.ndarray | torch.Tensor):
        return f"{type(image).__name__} {tuple(image.shape)} of {image.dtype}"
    return shown(image)
