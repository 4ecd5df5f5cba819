"""transformers' query networks behind one interface. Importing it needs transformers."""

from typing import Any

from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
)
from transformers.utils import logging

ENCODER = "model.pixel_level_module.encoder."
CLASSIFIERS = {"swin.": f"{ENCODER}swin.", "resnet.": ENCODER}
"""Prefix of parameter names in a transformers classifier file -> prefix in this network."""

# Quiet, because raylabel itself logs the missing tensors, and progress bars clutter logs.
logging.set_verbosity_error()
logging.disable_progress_bar()


class Mask2Former(Mask2FormerForUniversalSegmentation):
    """Mask2Former as a QueryNetwork. Parameters keep transformers' names, so its files fit."""

    embed_layers = ("pixel_decoder", "backbone")

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        del self.criterion

    def forward(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute mask and class logits of each decoder layer."""
        seen: Any = super().forward(pixels, output_auxiliary_logits=True, return_dict=True)
        layers = [(one["masks_queries_logits"], one["class_queries_logits"]) for one in seen.auxiliary_logits]
        return [*layers, (seen.masks_queries_logits, seen.class_queries_logits)]

    def map_of(self, pixels: Tensor, layer: str) -> Tensor:
        """Compute a feature map. `pixel_decoder` is the map that masks are read from; `backbone` is its last map."""
        level = self.model.pixel_level_module
        if layer == "backbone":
            return level.encoder(pixels).feature_maps[-1]
        return level(pixels).decoder_last_hidden_state

    def backbone_layers(self) -> dict[str, int]:
        """See QueryNetwork."""
        return _layers_below(self, (ENCODER,))

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """See QueryNetwork. A classifier's file also fits; only its backbone is used."""
        for in_file, here in CLASSIFIERS.items():
            if any(name.startswith(in_file) for name in tensors):
                tensors = {
                    here + name.removeprefix(in_file): one for name, one in tensors.items() if name.startswith(in_file)
                }
        return _converted(self, tensors)


class Eomt(EomtForUniversalSegmentation):
    """EoMT as a QueryNetwork. Parameters keep transformers' names, so its files fit.

    Masked attention stays on. The paper anneals it away, so that the final model predicts faster; this class does not.
    """

    embed_layers = ("backbone",)

    def __init__(self, config: EomtConfig) -> None:
        super().__init__(config)
        del self.criterion
        self._seen: list[tuple[Tensor, Tensor]] = []

    def predict(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Record the logits of each layer, because transformers keeps only those of the last layer."""
        self._seen.append(super().predict(logits))
        return self._seen[-1]

    def forward(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute mask and class logits of each layer that has queries."""
        self._seen = []
        super().forward(pixels)
        seen, self._seen = self._seen, []
        return seen

    def map_of(self, pixels: Tensor, layer: str) -> Tensor:
        """Compute the map of the image tokens before queries join them."""
        tokens: Tensor = self.embeddings(pixels)
        for block in self.layers[: -self.config.num_blocks]:
            tokens = block(tokens, None)
        grid = tokens[:, self.embeddings.num_prefix_tokens :]
        return grid.transpose(1, 2).unflatten(2, self.grid_size)

    def backbone_layers(self) -> dict[str, int]:
        """See QueryNetwork."""
        return _layers_below(self, ("embeddings.", "layers."))

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """See QueryNetwork."""
        return _converted(self, tensors)


def _converted(network: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    filled, report = type(network).from_pretrained(
        None, config=network.config, state_dict=tensors, output_loading_info=True, ignore_mismatched_sizes=True
    )
    absent = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    return {name: one for name, one in filled.state_dict().items() if name not in absent}


def _layers_below(network: nn.Module, prefixes: tuple[str, ...]) -> dict[str, int]:
    """Number layers by the blocks in parameter names, such as `encoder.layers.2.blocks.5`, in their order."""
    layer_of_block: dict[str, int] = {}
    layers = {}
    for name, _ in network.named_parameters():
        if name.startswith(prefixes):
            parts = name.split(".")
            numbers = [place for place, part in enumerate(parts) if part.isdigit()][:2]
            block = ".".join(parts[: numbers[-1] + 1]) if numbers else "outside of blocks"
            layers[name] = layer_of_block.setdefault(block, len(layer_of_block))
    return layers
