"""Stored pseudo-labels: from instances to rows of a label shard and back, and reading a run's committed shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.context import CONTEXT_FEATURES
from raylabel.instances import Instances
from raylabel.masks import Rle
from raylabel.schema import LABELS
from raylabel.storage import RunFolder, list_files, read_table

STATUS_OK = "ok"


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One image of the pool with what the teacher said of it.

    Attributes:
        image_id: as in the pool.
        uri: where the image is.
        status: "ok", or why the image is quarantined (it then has no instances).
        instances: every stored prediction, before selection.
        calibrated_scores: (N,) float32, of the predicted classes.
    """

    image_id: str
    uri: str
    status: str
    instances: Instances
    calibrated_scores: NDArray[np.float32]


def instances_to_structs(
    instances: Instances,
    calibrated_scores: NDArray[np.floating[Any]],
    context: NDArray[np.float32],
    *,
    top_k: int,
) -> list[dict[str, Any]]:
    """Rows of schema.INSTANCE; of each soft vector the `top_k` largest entries are kept, largest first."""
    order = np.argsort(-instances.soft_vectors, axis=1, kind="stable")[:, :top_k]
    probs = np.take_along_axis(instances.soft_vectors, order, axis=1)
    areas = instances.mask_areas
    return [
        {
            "class_index": int(instances.class_indices[row]),
            "raw_score": float(instances.raw_scores[row]),
            "calibrated_score": float(calibrated_scores[row]),
            "box_xyxy": instances.boxes_xyxy[row].tolist(),
            "mask_counts": instances.masks[row]["counts"],
            "mask_area": int(areas[row]),
            "mask_quality": float(instances.mask_quality[row]),
            "soft_classes": order[row].tolist(),
            "soft_probs": probs[row].tolist(),
            "context": dict(zip(CONTEXT_FEATURES, context[row].tolist(), strict=True)),
        }
        for row in range(len(instances))
    ]


def instances_from_structs(
    structs: Sequence[dict[str, Any]], image_size_hw: tuple[int, int], num_classes: int
) -> tuple[Instances, NDArray[np.float32]]:
    """Instances and their calibrated scores; the mass that was not stored is spread evenly over the other entries."""
    num = len(structs)
    soft_vectors = np.zeros((num, num_classes + 1), np.float32)
    for row, struct in enumerate(structs):
        probs = np.asarray(struct["soft_probs"], np.float32)
        num_missing = num_classes + 1 - len(probs)
        soft_vectors[row] = max(0.0, 1.0 - float(probs.sum())) / num_missing if num_missing else 0.0
        soft_vectors[row, struct["soft_classes"]] = probs
    soft_vectors /= np.maximum(soft_vectors.sum(axis=1, keepdims=True), 1e-12)
    instances = Instances(
        image_size_hw=image_size_hw,
        boxes_xyxy=np.array([struct["box_xyxy"] for struct in structs], np.float32).reshape(num, 4),
        masks=tuple(Rle(size=list(image_size_hw), counts=struct["mask_counts"]) for struct in structs),
        class_indices=np.array([struct["class_index"] for struct in structs], np.int32),
        raw_scores=np.array([struct["raw_score"] for struct in structs], np.float32),
        soft_vectors=soft_vectors,
        mask_quality=np.array([struct["mask_quality"] for struct in structs], np.float32),
    )
    return instances, np.array([struct["calibrated_score"] for struct in structs], np.float32)


def flat_instances(lists: pa.ListArray | pa.ChunkedArray) -> tuple[pa.StructArray, NDArray[np.int64]]:
    """Instances of many rows of schema.LABELS as one array of schema.INSTANCE, and how many each row has."""
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    return lists.flatten(), lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)


def context_from_structs(structs: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    """The stored context of rows of schema.INSTANCE, (N, len(CONTEXT_FEATURES))."""
    rows = [[struct["context"][name] for name in CONTEXT_FEATURES] for struct in structs]
    return np.array(rows, np.float32).reshape(len(structs), len(CONTEXT_FEATURES))


def shard_uri(run: RunFolder, shard_id: int) -> str:
    """The one file whose appearance commits a shard."""
    return run.path("labels", f"shard-{shard_id:08d}.parquet")


def committed_shards(run: RunFolder) -> dict[int, str]:
    """Shard id -> file of every committed shard, in order."""
    found = {}
    for info in list_files(run.path("labels"), suffix=".parquet"):
        if info.base_name.startswith("shard-"):
            shard_id = int(info.base_name.removeprefix("shard-").removesuffix(".parquet"))
            found[shard_id] = shard_uri(run, shard_id)
    return found


class PseudoLabels:
    """All rows of a run's committed shards, by position; unreadable images included.

    Args:
        run: the run folder.
        num_classes: length of the soft vectors without background.
    """

    def __init__(self, run: RunFolder, num_classes: int) -> None:
        self.num_classes = num_classes
        tables = [read_table(uri).replace_schema_metadata(None) for uri in committed_shards(run).values()]
        self.table = pa.concat_tables(tables) if tables else LABELS.empty_table()

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, position: int) -> LabelledImage:
        [row] = self.table.slice(position, 1).to_pylist()
        instances, calibrated_scores = instances_from_structs(
            row["instances"] or [], (row["height"], row["width"]), self.num_classes
        )
        return LabelledImage(
            image_id=row["image_id"],
            uri=row["uri"],
            status=row["status"],
            instances=instances,
            calibrated_scores=calibrated_scores,
        )

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[position] for position in range(len(self)))

    @property
    def usable(self) -> NDArray[np.int64]:
        """Positions of the images that were read."""
        statuses = np.array(self.table["status"].to_pylist(), dtype=object)
        return np.flatnonzero(statuses == STATUS_OK)
