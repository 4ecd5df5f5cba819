"""Class similarity, and the soft class targets that train the teacher."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raylabel.config import SmoothingKind


@dataclass(frozen=True, kw_only=True)
class PrototypeSums:
    """Sums of unit-length instance embeddings per class.

    Sums merge by `+`, so that any partition of the instances gives the same prototypes.

    Attributes:
        sums: (num_classes, D) float64.
        counts: (num_classes,) int64 numbers of instances.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    @staticmethod
    def zeros(num_classes: int, num_dimensions: int) -> "PrototypeSums":
        """Return the sums of no instance, the identity of `+`."""
        return PrototypeSums(sums=np.zeros((num_classes, num_dimensions)), counts=np.zeros(num_classes, dtype=np.int64))

    @staticmethod
    def of_instances(
        embeddings: NDArray[np.floating], class_indices: NDArray[np.integer], *, num_classes: int
    ) -> "PrototypeSums":
        """Sum (N, D) embeddings by their (N,) classes. Each is scaled to unit length; zeros stay zeros."""
        sums = np.zeros((num_classes, embeddings.shape[1]))
        np.add.at(sums, class_indices, _unit_length(np.asarray(embeddings, dtype=np.float64)))
        return PrototypeSums(sums=sums, counts=np.bincount(class_indices, minlength=num_classes).astype(np.int64))

    def __add__(self, other: "PrototypeSums") -> "PrototypeSums":
        if self.sums.shape != other.sums.shape:
            raise ValueError(f"sums to add must have the same shape, got {self.sums.shape} and {other.sums.shape}")
        return PrototypeSums(sums=self.sums + other.sums, counts=self.counts + other.counts)

    def prototypes(self) -> NDArray[np.float64]:
        """Return the unit-length means, (num_classes, D). A class without an instance has zeros."""
        return _unit_length(self.sums)


def class_similarity(prototypes: NDArray[np.floating], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the centred cosine similarity of classes, (C, C) in [-1, 1], symmetric, 1 on the diagonal.

    Raw cosines of embeddings are all similar, so the mean of the class prototypes is subtracted first. Each class
    counts once in the mean. A class without an instance has similarity 0 to every other class.

    Args:
        prototypes: (C, D) unit-length means.
        counts: (C,) instances per class.
    """
    is_seen = counts > 0
    centred = np.zeros(prototypes.shape)
    if is_seen.any():
        seen = np.asarray(prototypes, dtype=np.float64)[is_seen]
        centred[is_seen] = _unit_length(seen - seen.mean(axis=0))
    similarity = np.clip(centred @ centred.T, -1.0, 1.0)
    np.fill_diagonal(similarity, 1.0)
    return similarity


def rarity(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the rarity of each class, (C,) in [0, 1]: 0 for the most frequent class, 1 for the rarest.

        clip(log(n_max / n_c) / log(n_max / n_min), 0, 1)

    n_max and n_min are over classes with an image. A class without an image has rarity 1. If all classes have the same
    number, all have rarity 0.

    Args:
        counts: (C,) training images with the class.
    """
    is_seen = counts > 0
    if not is_seen.any():
        return np.ones(len(counts))
    logs = np.log(np.maximum(counts, 1).astype(np.float64))
    most, least = logs[is_seen].max(), logs[is_seen].min()
    relative = (most - logs) / (most - least) if most > least else np.zeros(len(counts))
    return np.where(is_seen, np.clip(relative, 0.0, 1.0), 1.0)


def smoothing_mass(counts: NDArray[np.integer], eps_min: float, eps_max: float) -> NDArray[np.float64]:
    """Return the mass that the target of each class gives to other classes, (C,).

    It rises from `eps_min` (most frequent class) to `eps_max` (rarest class).

    Args:
        counts: (C,) training images with the class.
        eps_min: smallest mass, in [0, 1].
        eps_max: largest mass, in [eps_min, 1].
    """
    return eps_min + (eps_max - eps_min) * rarity(counts)


def soft_targets(
    *,
    kind: SmoothingKind,
    counts: NDArray[np.integer],
    eps_min: float,
    eps_max: float,
    tau: float,
    similarity: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Return the class target of each true class, (C, C + 1) float32.

    Rows sum to 1. The background, last, has no mass.

        (1 - eps_c) * onehot_c + eps_c * q_c

    q_c is 0 at c. Over the other classes it is even (`uniform`) or softmax(S_ck / tau) (`similarity`). `none` gives
    one-hot rows, and so does a single class.

    Args:
        kind: how the smoothed mass is spread.
        counts: (C,) training images with the class.
        eps_min: mass of the most frequent class.
        eps_max: mass of the rarest class.
        tau: temperature of the softmax, > 0.
        similarity: (C, C) from `class_similarity`. Only the kind `similarity` needs it.

    Raises:
        ValueError: the kind is unknown, or the kind is `similarity` and no similarity is given.

    Source: Porcher et al. 2024 (arXiv 2403.11675); rarity and softmax are ours, see docs/method.md.
    """
    num_classes = len(counts)
    targets = np.eye(num_classes, num_classes + 1)
    if kind not in ("none", "uniform", "similarity"):
        raise ValueError(f"smoothing.kind must be none, uniform or similarity, got {kind!r}")
    if kind == "none" or num_classes == 1:
        return targets.astype(np.float32)
    if kind == "similarity" and similarity is None:
        raise ValueError("smoothing.kind similarity needs the classes' similarity")
    exponents = np.zeros((num_classes, num_classes)) if kind == "uniform" else np.array(similarity, np.float64) / tau
    np.fill_diagonal(exponents, -np.inf)
    shares = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    eps = smoothing_mass(counts, eps_min, eps_max)[:, None]
    targets[:, :num_classes] = (1 - eps) * np.eye(num_classes) + eps * shares
    return targets.astype(np.float32)


def _unit_length(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
