"""Train on the pseudo-labels of a run: a PyTorch `Dataset` of images and targets.

    python examples/pseudo_labels_dataset.py runs/demo

The targets have the fields that torchvision's detection models expect.
"""

import argparse

import torch
from torch import Tensor
from torch.utils.data import Dataset

import raylabel as rl
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.masks.rle import Rle, decode_masks


class PseudoLabels(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The pool images of a run that have a pseudo-label.

    Labels stay in memory with their masks as RLE. Images are read, and masks decoded, one item at a time.

    Args:
        run_uri: folder or URI of a labelled run.
    """

    def __init__(self, run_uri: str) -> None:
        run = rl.Run(run_uri)
        self._max_pixels = run.config.data.max_image_pixels
        self._images = [image for batch in run.pseudo_labels() for image in batch.to_pylist()]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the image, (3, H, W) float32 in [0, 1], and its N objects.

        `boxes` (N, 4) are x0, y0, x1, y1 in pixels. `labels` (N,) are class indices from 1, because torchvision keeps 0
        for the background. `masks` are (N, H, W) bool. `scores` (N,) are calibrated.
        """
        image = self._images[index]
        objects, size_hw = image["instances"], (image["height"], image["width"])
        source = ImageSource(image["uri"], size_hw, as_stored=bool(image["as_stored"]))
        pixels_HWC = read_source(source, max_pixels=self._max_pixels)
        rles = [Rle(size=list(size_hw), counts=one["mask_counts"]) for one in objects]
        target = {
            "boxes": torch.tensor([one["box_xyxy"] for one in objects], dtype=torch.float32),
            "labels": torch.tensor([one["class_index"] + 1 for one in objects]),
            "masks": torch.from_numpy(decode_masks(rles, size_hw)),
            "scores": torch.tensor([one["calibrated_score"] for one in objects]),
        }
        return torch.from_numpy(pixels_HWC).permute(2, 0, 1).float() / 255, target


def main(arguments: list[str] | None = None) -> None:
    """Print the shapes of the first item."""
    parser = argparse.ArgumentParser(description="Show the first pseudo-labelled image of a run as PyTorch tensors.")
    parser.add_argument("run", help="folder or URI of a labelled run")
    dataset = PseudoLabels(parser.parse_args(arguments).run)
    print(f"{len(dataset)} images with pseudo-labels")
    if len(dataset):
        image, target = dataset[0]
        for name, value in {"image": image, **target}.items():
            print(f"{name}: {tuple(value.shape)}")


if __name__ == "__main__":
    main()
