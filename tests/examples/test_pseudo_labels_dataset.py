"""Pseudo-labels of a run as a PyTorch dataset."""

import runpy
from pathlib import Path

import pytest
import torch

from pool_world import SIDE, labelled_run

EXAMPLE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "pseudo_labels_dataset.py"))


@pytest.fixture
def run_uri(tmp_path: Path) -> str:
    """Four readable images in two shards. The second image has no pseudo-label."""
    return labelled_run(tmp_path, [[[0, 2], []], [[1], [1, 1, 0]]], names=["mug", "lamp", "kite"]).uri


def test_items_are_images_with_their_kept_objects(run_uri: str) -> None:
    dataset = EXAMPLE["PseudoLabels"](run_uri)
    assert len(dataset) == 3
    for index, (number, labels) in enumerate([(0, [1, 3]), (2, [2]), (3, [2, 2, 1])]):
        image, target = dataset[index]
        assert image.shape == (3, SIDE, SIDE)
        assert image[0].unique().tolist() == pytest.approx([number / 255]), "the image's number is in its pixels"
        assert target["labels"].tolist() == labels
        assert target["boxes"].tolist() == [[3, 2, 12, 9]] * len(labels)
        assert target["masks"].shape == (len(labels), SIDE, SIDE)
        assert target["masks"].dtype == torch.bool
        assert target["masks"].sum(dim=(1, 2)).tolist() == [63] * len(labels)
        assert target["scores"].tolist() == pytest.approx([0.9] * len(labels))


def test_main_prints_the_shapes_of_the_first_item(run_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    EXAMPLE["main"]([run_uri])
    assert capsys.readouterr().out.splitlines() == [
        "3 images with pseudo-labels",
        "image: (3, 16, 16)",
        "boxes: (2, 4)",
        "labels: (2,)",
        "masks: (2, 16, 16)",
        "scores: (2,)",
    ]
