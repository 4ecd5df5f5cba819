"""The rows of a results file by image, on disk. A results file may hold its entries in any order."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.fields import check_mask
from raylabel.errors import InputError, shown_name
from raylabel.masks.rle import Rle
from raylabel.masks.segmentation import rle_from_segmentation
from raylabel.predictions.context import MODEL_FEATURES
from raylabel.predictions.results_columns import ROWS, Wanted
from raylabel.predictions.results_file import entry_name

IMAGES_PER_GROUP = 128
"""Images whose rows share a file. At 300 detections per image their rows and context take about 10 MB."""


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """The rows of up to IMAGES_PER_GROUP images, in a file.

    Attributes:
        path: the file.
        first_image: number of the first image.
        names: id of each image, for messages.
    """

    path: str
    first_image: int
    names: Sequence[int | str]


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """The entries of one image, in the order of the results.

    Attributes:
        image: number of the image.
        entries: (N,) places in the results.
        class_indices: (N,) int32.
        scores: (N,) float64.
        masks: N masks of one size.
        boxes_xywh: N boxes; None where an entry lacks one.
        features: name -> (N,) values, for the fields MODEL_FEATURES that were read.
    """

    image: int
    entries: NDArray[np.int64]
    class_indices: NDArray[np.int32]
    scores: NDArray[np.float64]
    masks: list[Rle]
    boxes_xywh: list[list[float] | None]
    features: dict[str, NDArray[np.float64]]


class RowsByImage:
    """Takes the rows of results in any order, and gives them back by image.

    Args:
        folder: folder for the files; about as large as the results.
        image_ids: id of each image, if the rows have numbers of images. Else images are numbered as they come.
    """

    def __init__(self, folder: str, image_ids: Sequence[int | str] | None) -> None:
        self._folder = Path(folder)
        self._image_ids = image_ids
        self._numbers = dict[str, int]()
        self._groups = set[int]()

    def add(self, rows: pa.RecordBatch) -> None:
        """Add some rows."""
        if self._image_ids is None:
            encoded = rows["image_name"].dictionary_encode()
            numbers = [self._numbers.setdefault(one, len(self._numbers)) for one in encoded.dictionary.to_pylist()]
            images = np.array(numbers, dtype=np.int64)[encoded.indices.to_numpy()]
            rows = rows.set_column(1, ROWS.field("image"), pa.array(images))
            rows = rows.set_column(2, ROWS.field("image_name"), pa.nulls(len(rows), pa.string()))
        groups = rows["image"].to_numpy() // IMAGES_PER_GROUP
        order = np.argsort(groups, kind="stable")
        ordered = rows if (np.diff(order) == 1).all() else rows.take(pa.array(order))
        numbers_of_groups, starts = np.unique(groups[order], return_index=True)
        for group, start, end in zip(numbers_of_groups.tolist(), starts, [*starts[1:], len(rows)], strict=True):
            self._groups.add(group)
            with self._path(group).open("ab") as file:
                file.write(ordered.slice(start, end - start).serialize())

    def groups(self, *, with_empty: bool = False) -> Iterator[RowGroup]:
        """Yield the groups, in the order of the images. The rows of every image are in one group.

        Args:
            with_empty: whether to yield also groups of images that no row names.
        """
        names: Sequence[int | str]
        names = [json.loads(one) for one in self._numbers] if self._image_ids is None else self._image_ids
        for group in range(-(-len(names) // IMAGES_PER_GROUP)) if with_empty else sorted(self._groups):
            first = group * IMAGES_PER_GROUP
            chosen = names[first : first + IMAGES_PER_GROUP]
            yield RowGroup(path=str(self._path(group)), first_image=first, names=chosen)

    def _path(self, group: int) -> Path:
        return self._folder / f"{group}.rows"


def read_images(group: RowGroup, wanted: Wanted) -> Iterator[ImageRows]:
    """Yield the images of a group, in the order of their numbers.

    Raises:
        InputError: masks of an image differ in size, or polygons have no size.
    """
    if not Path(group.path).exists():
        return
    with pa.memory_map(group.path) as file:
        reader = pa.ipc.MessageReader.open_stream(file)
        batches = [pa.ipc.read_record_batch(message, ROWS) for message in reader]
        rows = pa.Table.from_batches(batches).combine_chunks()
        images = rows["image"].to_numpy()
        order = np.argsort(images, kind="stable")
        rows = rows.take(pa.array(order)).combine_chunks()
    numbers, starts = np.unique(images[order], return_index=True)
    for image, start, end in zip(numbers.tolist(), starts.tolist(), [*starts[1:].tolist(), len(images)], strict=True):
        yield _image_rows(image, rows.slice(start, end - start), group.names[image - group.first_image], wanted)


def _image_rows(image: int, rows: pa.Table, name: int | str, wanted: Wanted) -> ImageRows:
    columns = {one: rows[one] for one in MODEL_FEATURES if rows[one].null_count < len(rows)}
    return ImageRows(
        image=image,
        entries=rows["entry"].to_numpy(),
        class_indices=rows["class_index"].to_numpy(),
        scores=rows["score"].to_numpy(),
        masks=_masks(rows, name, wanted) if wanted.with_masks else [],
        boxes_xywh=rows["box_xywh"].to_pylist() if wanted.with_boxes else [],
        features={one: values.to_numpy() for one, values in columns.items()},
    )


def _masks(rows: pa.Table, image_name: int | str, wanted: Wanted) -> list[Rle]:
    entries, counts = rows["entry"].to_numpy(), rows["counts"].to_pylist()
    sizes_hw = np.column_stack([rows["height"].to_numpy(), rows["width"].to_numpy()])
    has_size = np.array([one is not None for one in counts])
    size_hw: tuple[int, int] | None = None
    if has_size.any():
        height, width = sizes_hw[has_size][0].tolist()
        size_hw = int(height), int(width)

    def where(row: int) -> str:
        return f"{entry_name(wanted.where, int(entries[row]))} (image {shown_name(image_name)})"

    polygons: list[Any] = rows["polygons"].to_pylist() if not has_size.all() else []
    for row in np.flatnonzero(~has_size | (sizes_hw != (size_hw or (-1, -1))).any(axis=1)).tolist():
        if has_size[row]:
            size = sizes_hw[row].tolist()
            raise InputError(f"{where(row)}: RLE size must be {list(size_hw or ())} like its image, got {size}")
        mask = check_mask(json.loads(polygons[row]), size_hw, where(row), remedy=wanted.remedy)
        assert size_hw is not None, "polygons without a size are refused"
        counts[row] = rle_from_segmentation(mask, size_hw, check=False)["counts"]
    return [Rle(size=list(size_hw or ()), counts=one) for one in counts]
