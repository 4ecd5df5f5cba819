"""A teacher class of your own: check that it fits raylabel, train it for a moment, and let it predict.

    python examples/own_teacher.py

A config names such a class as `module:Class`; the module must be on PYTHONPATH:

    teacher: {model: "own_teacher:PixelTeacher"}
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import raylabel as rl

NUM_CLASSES = 3


class PixelTeacher(nn.Module):
    """Classifies pixels. All pixels of one class are one object."""

    embed_layers = ("pixels",)

    def __init__(self, *, num_classes: int, min_size: int | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.features = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU())
        self.logits = nn.Conv2d(16, num_classes + 1, 1)  # background last

    def losses(self, images: list[Tensor], targets: Sequence[rl.Target], *, terms=rl.LOSS_TERMS) -> dict[str, Tensor]:
        losses = []
        for image, target in zip(images, targets, strict=True):
            masks, known = target.masks_NHW.float(), target.class_mask
            wanted = torch.einsum("n,nc,nhw->chw", target.weights, target.class_probs, masks)
            wanted[-1] += masks.sum(dim=0) == 0
            losses.append(F.cross_entropy(self.logits(self.features(image))[None, known], wanted[None, known]))
        return {term: torch.stack(losses).mean() * (term == "classes") for term in terms}

    @torch.no_grad()
    def predict(self, images: list[Tensor], *, score_threshold: float, max_per_image: int) -> list[rl.Instances]:
        return [self._find(image, score_threshold)[:max_per_image] for image in images]

    def _find(self, image: Tensor, score_threshold: float) -> rl.Instances:
        probs = self.logits(self.features(image)).softmax(dim=0).cpu()
        masks = F.one_hot(probs.argmax(dim=0), len(probs)).permute(2, 0, 1)[:-1]
        vectors = F.normalize(torch.einsum("nhw,chw->nc", masks.float(), probs), p=1, dim=1)
        scores, rows = vectors.diagonal().sort(descending=True)
        rows = rows[scores >= max(score_threshold, 1e-6)]  # a class without pixels has the score 0
        rles = rl.encode_masks(masks[rows].numpy())
        return rl.Instances(
            image_size_hw=tuple(image.shape[1:]),
            boxes_xyxy=rl.mask_boxes(rles),
            masks=tuple(rles),
            class_indices=rows.int().numpy(),
            raw_scores=vectors[rows, rows].numpy(),
            soft_vectors=vectors[rows].numpy(),
            mask_quality=vectors[rows, rows].numpy(),
        )

    @torch.no_grad()
    def embed(self, images: list[Tensor], targets: Sequence[rl.Target], *, layer: str | None = None) -> Tensor:
        masks = [target.masks_NHW.float() for target in targets]
        sums = [torch.einsum("nhw,chw->nc", *pair) for pair in zip(masks, map(self.features, images), strict=True)]
        return F.normalize(torch.cat(sums), dim=1)


def coloured_squares(num_images: int) -> tuple[list[Tensor], list[rl.Target]]:
    """Draw one square per image; its class is its colour."""
    images, targets = [], []
    for number in range(num_images):
        index, start = number % NUM_CLASSES, 4 + number
        image, mask = torch.rand(3, 48, 48) * 0.3, torch.zeros(1, 48, 48, dtype=torch.bool)
        image[index, start : start + 20, start : start + 20] += 0.7
        mask[0, start : start + 20, start : start + 20] = True
        box = torch.tensor([[start, start, start + 20, start + 20]]).float()
        probs = F.one_hot(torch.tensor([index]), NUM_CLASSES + 1).float()
        images.append(image)
        targets.append(rl.Target(boxes_xyxy=box, masks_NHW=mask, class_probs=probs, weights=torch.ones(1)))
    return images, targets


def main() -> None:
    torch.set_num_threads(1)  # because these images are too small to share among threads
    torch.manual_seed(0)
    teacher = PixelTeacher(num_classes=NUM_CLASSES)
    rl.check_segmenter(teacher)
    print("PixelTeacher keeps every promise of a segmenter.")
    images, targets = coloured_squares(6)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.03)
    for step in range(41):
        loss = sum(teacher.losses(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    for found in teacher.predict(images[:3], score_threshold=0.5, max_per_image=10):
        print(f"class {found.class_indices[0]}, score {found.raw_scores[0]:.2f}, box {found.boxes_xyxy[0].tolist()}")


if __name__ == "__main__":
    main()
