"""The images of an annotated set in columns, and as records that are made on demand."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.object_rows import ObjectRows, rows_in_memory
from raylabel.files.paths import join, join_each

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("is_text_id", pa.bool_()),
        ("file_name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("as_stored", pa.bool_()),
        ("negative_classes", pa.list_(pa.int32())),
        ("not_exhaustive_classes", pa.list_(pa.int32())),
        ("object_classes", pa.list_(pa.int32())),
        ("object_is_crowd", pa.list_(pa.bool_())),
        ("annotated_classes", pa.list_(pa.int32())),
        ("checksum", pa.uint32()),
    ]
)
"""One row per image, in the file's order.

`is_text_id` tells the id "1" from the id 1. The lists `object_*` have one entry per annotation, in the file's order.
`annotated_classes` are the sorted classes of the annotations that are no crowd regions.
`checksum` is the CRC-32 of the image's row of OBJECTS. See `ImageRecord` for the other columns.
"""

_PER_SLICE = 1000
_RECORD = tuple(name for name in IMAGES.names if not name.startswith(("object_", "annotated_")))


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """An image of an annotated set.

    Attributes:
        image_id: the file's id.
        file_name: path below the images' root.
        uri: path or URI of the image.
        height, width: size in pixels.
        as_stored: the orientation of the annotations if the size alone does not decide; see `ImageSource`. None if
            nobody says. It then stands for stored pixels.
        negative_classes: indices of classes that are verified to be absent (LVIS `neg_category_ids`).
        not_exhaustive_classes: indices of classes with instances that are not annotated (LVIS
            `not_exhaustive_category_ids`).
    """

    image_id: int | str
    file_name: str
    uri: str
    height: int
    width: int
    as_stored: bool | None = None
    negative_classes: frozenset[int] = frozenset()
    not_exhaustive_classes: frozenset[int] = frozenset()

    @property
    def image_size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def source(self) -> ImageSource:
        """The image in the orientation of its annotations."""
        return ImageSource(self.uri, self.image_size_hw, self.as_stored is not False)


class Origin(NamedTuple):
    """The annotation file that images come from.

    Attributes:
        objects: the objects of the file's images.
        images_root: folder or URI prefix of the file's images.
        uris: URIs of the file's images by row, if they do not lie below the root.
    """

    objects: ObjectRows
    images_root: str
    uris: Sequence[str] | None = None

    def uri(self, row: int, file_name: str) -> str:
        """Return the path or URI of an image of the file."""
        return self.uris[row] if self.uris is not None else join(self.images_root, file_name)


class ListColumn(NamedTuple):
    """A column of lists as NumPy arrays: the entries of row r are values[starts[r] : starts[r + 1]]."""

    values: NDArray[Any]
    starts: NDArray[np.int64]

    def row(self, row: int) -> NDArray[Any]:
        """Return the entries of one row."""
        found: NDArray[Any] = self.values[self.starts[row] : self.starts[row + 1]]
        return found

    def split(self) -> list[NDArray[Any]]:
        """Return the entries of every row, as views."""
        return [self.values[start:stop] for start, stop in pairwise(self.starts.tolist())]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each entry."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


class ImageTable(Sequence[ImageRecord]):
    """Images in columns: a sequence of records, each made when it is asked for.

    Args:
        columns: a table of IMAGES in one chunk, see `single_chunk`.
        origins: the files that the images come from.
        origin_of, row_of: (N,) the place in `origins`, and the row of the file, of each image.
    """

    def __init__(
        self,
        columns: pa.RecordBatch,
        origins: tuple[Origin, ...],
        origin_of: NDArray[np.int16],
        row_of: NDArray[np.int64],
    ) -> None:
        self.columns, self.origins, self.origin_of, self.row_of = columns, origins, origin_of, row_of

    @staticmethod
    def of_file(columns: pa.RecordBatch, origin: Origin) -> "ImageTable":
        """Return all images of one file."""
        num = columns.num_rows
        return ImageTable(columns, (origin,), np.zeros(num, np.int16), np.arange(num))

    def __len__(self) -> int:
        return self.columns.num_rows

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, row: slice) -> list[ImageRecord]: ...
    def __getitem__(self, row: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        place = range(len(self))[row]
        return next(self._records(place, place + 1))

    def __iter__(self) -> Iterator[ImageRecord]:
        for start in range(0, len(self), _PER_SLICE):
            yield from self._records(start, min(start + _PER_SLICE, len(self)))

    def _records(self, start: int, stop: int) -> Iterator[ImageRecord]:
        columns = {name: self.columns.column(name).slice(start, stop - start).to_pylist() for name in _RECORD}
        for place in range(stop - start):
            name, image_id = columns["file_name"][place], columns["image_id"][place]
            yield ImageRecord(
                image_id=image_id if columns["is_text_id"][place] else int(image_id),
                file_name=name,
                uri=self.origins[self.origin_of[start + place]].uri(int(self.row_of[start + place]), name),
                height=columns["height"][place],
                width=columns["width"][place],
                as_stored=columns["as_stored"][place],
                negative_classes=frozenset(columns["negative_classes"][place]),
                not_exhaustive_classes=frozenset(columns["not_exhaustive_classes"][place]),
            )

    def objects(self, row: int) -> list[dict[str, Any]]:
        """Return the annotation objects of an image as the file has them."""
        origin = self.origins[self.origin_of[row]]
        return origin.objects.read(int(self.row_of[row]), self.columns.column("checksum")[row].as_py())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle these images alone, with the text of their objects. The copy needs no file."""
        checksums = self.columns.column("checksum").to_pylist()
        places = zip(self.origin_of.tolist(), self.row_of.tolist(), checksums, strict=True)
        texts = [self.origins[origin].objects.text(row, checksum) for origin, row, checksum in places]
        return _in_memory, (self.columns, texts, self.uris())

    def ids(self) -> list[int | str]:
        """Return the ids of all images."""
        ids, are_text = self.columns.column("image_id").to_pylist(), self.columns.column("is_text_id").to_pylist()
        return [one if is_text else int(one) for one, is_text in zip(ids, are_text, strict=True)]

    def file_names(self) -> list[str]:
        """Return the file names of all images."""
        names: list[str] = self.columns.column("file_name").to_pylist()
        return names

    def uris(self) -> list[str]:
        """Return the paths or URIs of all images."""
        if len(self.origins) == 1 and self.origins[0].uris is None:
            return join_each(self.origins[0].images_root, self.file_names())
        places = zip(self.origin_of.tolist(), self.row_of.tolist(), self.file_names(), strict=True)
        return [self.origins[origin].uri(row, name) for origin, row, name in places]

    def sizes_hw(self) -> NDArray[np.int32]:
        """Return the (N, 2) heights and widths in pixels."""
        return np.stack([self.columns.column(name).to_numpy() for name in ("height", "width")], axis=1)

    def lists(self, name: str) -> ListColumn:
        """Return a column of lists."""
        column = self.columns.column(name)
        starts = column.offsets.to_numpy().astype(np.int64)
        values = column.values.slice(starts[0], starts[-1] - starts[0]).to_numpy(zero_copy_only=False)
        return ListColumn(values, starts - starts[0])

    def take(self, rows: NDArray[np.int64]) -> "ImageTable":
        """Return some of the images, in this order."""
        columns = self.columns.take(pa.array(rows))
        return ImageTable(columns, self.origins, self.origin_of[rows], self.row_of[rows])

    def displayed(self) -> "ImageTable":
        """Return the same images, with annotations of displayed images where nobody says otherwise."""
        place = IMAGES.get_field_index("as_stored")
        filled = self.columns.set_column(place, "as_stored", self.columns.column("as_stored").fill_null(False))
        return ImageTable(filled, self.origins, self.origin_of, self.row_of)

    def __add__(self, other: "ImageTable") -> "ImageTable":
        columns = single_chunk(pa.Table.from_batches([self.columns, other.columns]))
        origins = self.origins + other.origins
        origin_of = np.concatenate([self.origin_of, other.origin_of + np.int16(len(self.origins))])
        return ImageTable(columns, origins, origin_of, np.concatenate([self.row_of, other.row_of]))


def _in_memory(columns: pa.RecordBatch, texts: list[bytes], uris: list[str]) -> ImageTable:
    objects, _ = rows_in_memory(texts)
    return ImageTable.of_file(columns, Origin(objects, "", uris))


def single_chunk(table: pa.Table) -> pa.RecordBatch:
    """Return a table as one record batch, so that each column is one array."""
    if not table.num_rows:
        return pa.RecordBatch.from_pylist([], schema=table.schema)
    [batch] = table.combine_chunks().to_batches()
    return batch


def image_columns(
    images: Iterable[ImageRecord],
    objects: Iterable[tuple[NDArray[np.integer], NDArray[np.bool_]]],
    checksums: Iterable[int],
) -> pa.RecordBatch:
    """Return images as columns of IMAGES.

    Args:
        images: the images.
        objects: class index and crowd flag of each object, per image.
        checksums: the checksum of each image's objects.
    """
    rows = [
        {
            "image_id": str(image.image_id),
            "is_text_id": isinstance(image.image_id, str),
            "file_name": image.file_name,
            "height": image.height,
            "width": image.width,
            "as_stored": image.as_stored,
            "negative_classes": sorted(image.negative_classes),
            "not_exhaustive_classes": sorted(image.not_exhaustive_classes),
            "object_classes": classes,
            "object_is_crowd": is_crowd,
            "annotated_classes": np.unique(classes[~is_crowd]),
            "checksum": checksum,
        }
        for image, (classes, is_crowd), checksum in zip(images, objects, checksums, strict=True)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=IMAGES)
