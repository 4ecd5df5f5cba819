"""An annotated set: images, classes, and the annotations of each image, indexed by row.

Images and the class of each object are Arrow columns. The rest of an object stays JSON text, outside of memory, and is
parsed when its image is asked for.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.frequency import FrequencyGroup, frequency_groups
from raylabel.dataset.image_records import ImageRecord, ImageTable, ListColumn, Origin, image_columns
from raylabel.dataset.object_rows import rows_in_memory
from raylabel.masks.rle import Rle, mask_boxes
from raylabel.masks.segmentation import rle_from_segmentation


@dataclass(frozen=True, kw_only=True)
class Category:
    """A class as the annotation file names it.

    Attributes:
        category_id: the file's id, any integer.
        name: the file's name.
        frequency: the class's group in *LVIS's* training set, if the file gives it. `frequency_groups` counts the
            images of this set instead.
    """

    category_id: int
    name: str
    frequency: FrequencyGroup | None = None


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """Annotated objects of one image, all fields indexed together.

    Attributes:
        image_size_hw: height and width of the image in pixels.
        boxes_xyxy: (N, 4) float32, pixels: the file's boxes, or the bounds of the masks without them.
        masks: N compressed RLEs of the image's size.
        class_indices: (N,) int32, 0-based.
        is_crowd: (N,) bool; regions of many objects, never learnt or matched one-to-one.
    """

    image_size_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    masks: tuple[Rle, ...]
    class_indices: NDArray[np.int32]
    is_crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedSet:
    """Checked images, classes and annotations. The class index of a category is its place in `categories`.

    Attributes:
        images: images in the file's order; a *row* is an index into them.
        categories: classes sorted by category id.
        is_federated: whether each image is annotated for some classes only (LVIS), not for all (COCO).
    """

    images: ImageTable
    categories: tuple[Category, ...]
    is_federated: bool

    @staticmethod
    def of_records(
        images: Iterable[ImageRecord],
        categories: Iterable[Category],
        annotations: Iterable[Iterable[Mapping[str, Any]]],
        *,
        is_federated: bool,
    ) -> "AnnotatedSet":
        """Return the set of these images and of the annotation objects of each. It is held in memory."""
        images, categories = list(images), tuple(categories)
        index_of = {category.category_id: index for index, category in enumerate(categories)}
        texts, objects = list[bytes](), list[tuple[NDArray[np.int64], NDArray[np.bool_]]]()
        for of_image in map(list, annotations):
            texts.append(json.dumps(of_image).encode())
            classes = np.array([index_of[one["category_id"]] for one in of_image], dtype=np.int64)
            objects.append((classes, np.array([bool(one.get("iscrowd")) for one in of_image], dtype=bool)))
        rows, checksums = rows_in_memory(texts)
        columns = image_columns(images, objects, checksums.tolist())
        origin = Origin(rows, "", [image.uri for image in images])
        return AnnotatedSet(
            images=ImageTable.of_file(columns, origin), categories=categories, is_federated=is_federated
        )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of foreground classes."""
        return len(self.categories)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Class names by class index."""
        return tuple(category.name for category in self.categories)

    @cached_property
    def category_ids(self) -> NDArray[np.int64]:
        """(num_classes,) int64 category ids by class index."""
        return np.array([category.category_id for category in self.categories], dtype=np.int64)

    @cached_property
    def class_index_of(self) -> dict[int, int]:
        """Class indices by category id."""
        return {category.category_id: index for index, category in enumerate(self.categories)}

    @property
    def annotations(self) -> "_Annotations":
        """The file's annotation objects per row. Each access parses the objects of one image."""
        return _Annotations(self.images)

    @cached_property
    def object_class_lists(self) -> ListColumn:
        """Class indices of the annotations of all images, crowd regions included."""
        return self.images.lists("object_classes")

    @cached_property
    def _object_crowd_lists(self) -> ListColumn:
        return self.images.lists("object_is_crowd")

    @cached_property
    def negative_class_lists(self) -> ListColumn:
        """Sorted indices of the classes that are verified to be absent, of all images."""
        return self.images.lists("negative_classes")

    @cached_property
    def not_exhaustive_class_lists(self) -> ListColumn:
        """Sorted indices of the classes with instances that are not annotated, of all images."""
        return self.images.lists("not_exhaustive_classes")

    @cached_property
    def annotated_class_lists(self) -> ListColumn:
        """Sorted indices of the classes with an annotation, of all images. Crowd regions do not count."""
        return self.images.lists("annotated_classes")

    def ground_truth(self, row: int) -> GroundTruth:
        """Return the annotations of one image, with masks as RLE. Each call parses them and rasterises the polygons."""
        image_size_hw, annotations = self.images[row].image_size_hw, self.annotations[row]
        masks = tuple(rle_from_segmentation(one["segmentation"], image_size_hw, check=False) for one in annotations)
        boxes_xyxy = mask_boxes([]) if not masks else np.zeros((len(masks), 4), dtype=np.float32)
        for index, one in enumerate(annotations):
            if one.get("bbox") is None:
                boxes_xyxy[index] = mask_boxes([masks[index]])[0]
            else:
                x, y, width, height = one["bbox"]
                boxes_xyxy[index] = x, y, x + width, y + height
        return GroundTruth(
            image_size_hw=image_size_hw,
            boxes_xyxy=boxes_xyxy,
            masks=masks,
            class_indices=self.object_classes(row),
            is_crowd=self.object_is_crowd(row),
        )

    def object_classes(self, row: int) -> NDArray[np.int32]:
        """Return the class index of each annotation of an image, crowd regions included."""
        return self.object_class_lists.row(row)

    def object_is_crowd(self, row: int) -> NDArray[np.bool_]:
        """Tell per annotation of an image whether it is a crowd region."""
        return self._object_crowd_lists.row(row)

    def object_segmentations(self, row: int, places: Iterable[int]) -> list[Any]:
        """Return the COCO `segmentation` of chosen annotations of an image; `places` index them."""
        annotations = self.annotations[row]
        return [annotations[place]["segmentation"] for place in places]

    def annotated_classes(self, row: int) -> NDArray[np.int32]:
        """Return the sorted indices of the classes with an annotation in the image. Crowd regions do not count."""
        return self.annotated_class_lists.row(row)

    def class_image_counts(self) -> NDArray[np.int64]:
        """Return the (num_classes,) numbers of images with an annotation of each class. Crowd regions do not count."""
        return np.bincount(self.annotated_class_lists.values, minlength=self.num_classes).astype(np.int64)

    def class_instance_counts(self) -> NDArray[np.int64]:
        """Return the (num_classes,) numbers of annotations of each class. Crowd regions do not count."""
        classes = self.object_class_lists.values[~self._object_crowd_lists.values]
        return np.bincount(classes, minlength=self.num_classes).astype(np.int64)

    def frequency_groups(self) -> NDArray[np.str_]:
        """Return the (num_classes,) frequency groups "r", "c" and "f" by the image counts of this set.

        Only the groups of a training set are meaningful. A class without annotation is "r".
        """
        return frequency_groups(self.class_image_counts())

    def subset(self, rows: Iterable[int]) -> "AnnotatedSet":
        """Return the chosen images in the order of `rows`, with the same classes."""
        return replace(self, images=self.images.take(np.fromiter(rows, dtype=np.int64)))

    def with_displayed_images(self) -> "AnnotatedSet":
        """Return the same set, with annotations of displayed images where neither size nor file says otherwise."""
        return replace(self, images=self.images.displayed())

    def __add__(self, other: "AnnotatedSet") -> "AnnotatedSet":
        """Return the images of both sets. Both must have the same classes (`validate_same_categories`)."""
        return AnnotatedSet(
            images=self.images + other.images,
            categories=self.categories,
            is_federated=self.is_federated or other.is_federated,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the set in COCO form, or LVIS form if it is federated. Annotations keep all their fields."""
        images: list[dict[str, Any]] = []
        for image in self.images:
            fields: dict[str, Any] = {
                "id": image.image_id,
                "file_name": image.file_name,
                "height": image.height,
                "width": image.width,
            }
            if self.is_federated:
                fields["neg_category_ids"] = self.category_ids[sorted(image.negative_classes)].tolist()
                fields["not_exhaustive_category_ids"] = self.category_ids[sorted(image.not_exhaustive_classes)].tolist()
            images.append(fields)
        annotations = [one for of_image in self.annotations for one in of_image]
        return {"images": images, "annotations": annotations, "categories": categories_to_json(self.categories)}


class _Annotations(Sequence[list[dict[str, Any]]]):
    """The annotation objects of each image, parsed when they are asked for."""

    def __init__(self, images: ImageTable) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: Any) -> Any:
        return self._images.objects(range(len(self))[row])

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return map(self._images.objects, range(len(self)))


def categories_to_json(categories: Iterable[Category]) -> list[dict[str, Any]]:
    """Return classes as annotation files have them."""
    return [
        {"id": one.category_id, "name": one.name} | ({"frequency": one.frequency.value} if one.frequency else {})
        for one in categories
    ]
