"""Predicting with an ONNX graph, a teacher that another tool trained. docs/models.md has the graph's contract."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from raylabel.errors import InputError, shown
from raylabel.files.json_text import parse_json
from raylabel.models.extras import import_extra
from raylabel.models.parts.duplicates import distinct_boxes, distinct_masks
from raylabel.models.parts.map_masks import map_instances
from raylabel.models.parts.mask_parts import assemble_instances, mask_part
from raylabel.models.rcnn.soft_maskrcnn import paste_mask
from raylabel.models.segmenter import LOSS_TERMS, LossTerm, Target
from raylabel.models.weights.file import GRAPH
from raylabel.predictions.instances import Instances

INPUT = "images"
BOXES, PROBS, BOX_MASKS, IMAGE_MASKS = "boxes_xyxy", "class_probs", "box_mask_probs", "image_mask_logits"


def build_onnx(*, num_classes: int, min_size: int | None = None) -> "OnnxSegmenter":
    """Build the model `onnx`, whose weights are its graph.

    Args:
        num_classes: number of foreground classes. The graph must have as many.
        min_size: length of the short side that images are resized to; None keeps their size. If the graph's input has
            a fixed size, images are resized to that size instead.

    Raises:
        InputError: the extra `onnx` is not installed.
    """
    import_extra("onnxruntime", extra="onnx", needed_by="model onnx")
    return OnnxSegmenter(num_classes=num_classes, min_size=min_size)


class OnnxSegmenter(nn.Module):
    """A Segmenter that only predicts: it has no losses and no embeddings.

    The graph is a tensor of bytes, so this model is saved and loaded like every other model.

    Args:
        num_classes: number of foreground classes.
        min_size: see `build_onnx`.

    Attributes:
        class_names: class names in the graph's metadata, or None.
    """

    embed_layers: tuple[str, ...] = ()
    is_trainable = False

    def __init__(self, *, num_classes: int, min_size: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_names: tuple[str, ...] | None = None
        self._min_size = min_size
        self.graph: Tensor
        self.register_buffer(GRAPH, torch.zeros(0, dtype=torch.uint8))
        self._session: Any = None

    def prepared_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the graph from a weights file and check it.

        Raises:
            InputError: the file has no ONNX graph, or the graph breaks the contract.
        """
        if GRAPH not in tensors:
            raise InputError(
                f"model onnx needs weights in an .onnx file, got tensors such as {next(iter(tensors), None)}"
            )
        self.graph = tensors[GRAPH].to(self.graph.device)
        self._session = self._open("cpu")
        return tensors

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        self.prepared_tensors({GRAPH: state_dict[prefix + GRAPH]})
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> "OnnxSegmenter":
        """Close the graph if `to` moves it to another device; the next prediction opens it there."""
        before = self.graph.device
        moved = super()._apply(fn, recurse)
        if self.graph.device != before:
            self._session = None
        return moved

    def losses(
        self, images: list[Tensor], targets: Sequence[Target], *, terms: frozenset[LossTerm] = LOSS_TERMS
    ) -> NoReturn:
        """Refuse, because a graph can't be trained.

        Raises:
            InputError: always.
        """
        raise InputError("model onnx only predicts. It can be a teacher with teacher.steps: 0, but not a student")

    def embed(self, images: list[Tensor], targets: Sequence[Target], *, layer: str | None = None) -> NoReturn:
        """Refuse, because a graph has no embeddings.

        Raises:
            InputError: always.
        """
        raise InputError("model onnx has no embeddings. Set smoothing.embedder to the folder of a saved model")

    @torch.no_grad()
    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[Instances]:
        """See Segmenter. The graph sees one image at a time."""
        if self._session is None:
            self._session = self._open(self.graph.device.type)
        return [self._predict(image, score_threshold, max_per_image) for image in images]

    def _predict(self, image: Tensor, score_threshold: float, max_per_image: int) -> Instances:
        size = (image.shape[-2], image.shape[-1])
        seen = image[None]
        if (seen_size := self._seen_size(size)) != size:
            seen = F.interpolate(seen, size=seen_size, mode="bilinear", align_corners=False)
        names = [one.name for one in self._session.get_outputs()]
        outputs = self._session.run(names, {INPUT: seen.float().cpu().numpy()})
        found = {
            name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in zip(names, outputs, strict=True)
        }
        probs = found[PROBS]
        if probs.shape[1] != self.num_classes + 1:
            raise InputError(f"model onnx: {PROBS} must have {self.num_classes + 1} columns, got {probs.shape[1]}")
        if IMAGE_MASKS in found:
            masks = found[IMAGE_MASKS]
            kept = distinct_masks(masks, probs, score_threshold)[:max_per_image]
            scales = (masks.shape[-2] / size[0], masks.shape[-1] / size[1])
            return map_instances(masks[kept].numpy(), probs[kept], scales, size)
        boxes = found[BOXES] * torch.tensor([size[1] / seen_size[1], size[0] / seen_size[0]]).repeat(2)
        boxes = clip_boxes_to_image(boxes, size)
        kept = distinct_boxes(boxes, probs, score_threshold)[:max_per_image]
        parts = [
            mask_part(*paste_mask(mask, box, size))
            for mask, box in zip(found[BOX_MASKS][kept], boxes[kept].tolist(), strict=True)
        ]
        return assemble_instances(parts, boxes[kept].numpy(), probs[kept].numpy(), size)

    def _seen_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        fixed = self._session.get_inputs()[0].shape[-2:]
        if all(isinstance(side, int) for side in fixed):
            return (fixed[0], fixed[1])
        if self._min_size is None:
            return size_hw
        scale = self._min_size / min(size_hw)
        return (round(size_hw[0] * scale), round(size_hw[1] * scale))

    def _open(self, device: str) -> Any:
        """Open the graph for a device.

        Raises:
            InputError: there is no graph, it breaks the contract, or onnxruntime has no provider for the device.
        """
        runtime = import_extra("onnxruntime", extra="onnx", needed_by="model onnx")
        if not len(self.graph):
            raise InputError("model onnx needs weights: an .onnx file")
        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in runtime.get_available_providers():
            raise InputError(
                f"model onnx: onnxruntime has no {provider} here. Install onnxruntime-gpu, or run without a GPU"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        state = runtime.capi.onnxruntime_pybind11_state
        failures = tuple(
            kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)
        )
        try:
            session = runtime.InferenceSession(self.graph.cpu().numpy().tobytes(), options, providers=[provider])
        except failures as error:
            raise InputError(
                f"model onnx: onnxruntime can't open the graph: {' '.join(str(error).split())[:200]}"
            ) from error
        self._check(session)
        return session

    def _check(self, session: Any) -> None:
        inputs = [one.name for one in session.get_inputs()]
        if inputs != [INPUT]:
            raise InputError(f"model onnx: the graph must have one input {INPUT}, got {', '.join(inputs)}")
        shapes = {one.name: one.shape for one in session.get_outputs()}
        missing = [
            name for name in (BOXES, PROBS) if name not in shapes and not (name == BOXES and IMAGE_MASKS in shapes)
        ]
        if missing or not {BOX_MASKS, IMAGE_MASKS} & set(shapes):
            raise InputError(
                f"model onnx: the graph must have the outputs {BOXES}, {PROBS} and {BOX_MASKS}, or {PROBS} and "
                f"{IMAGE_MASKS}, got {', '.join(shapes)}"
            )
        metadata = session.get_modelmeta().custom_metadata_map
        if "class_names" in metadata:
            names = parse_json(metadata["class_names"], "model onnx: the graph's metadata class_names")
            if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
                raise InputError(f"model onnx: class_names must be a list of names, got {shown(names)}")
            self.class_names = tuple(names)
        columns = shapes[PROBS][1]
        num_classes = len(self.class_names) if self.class_names else columns - 1 if isinstance(columns, int) else None
        if num_classes not in (None, self.num_classes):
            raise InputError(f"model onnx: the graph has {num_classes} classes, the labelled set {self.num_classes}")
