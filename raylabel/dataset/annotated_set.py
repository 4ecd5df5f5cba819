"""An annotated set in memory: images, classes, and the annotations of each image, indexed by row."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.frequency import FrequencyGroup, frequency_groups
from raylabel.dataset.image_source import ImageSource
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


@dataclass(frozen=True, kw_only=True)
class AnnotatedSet:
    """Checked images, classes and annotations. The class index of a category is its place in `categories`.

    Attributes:
        images: images in the file's order; a *row* is an index into them.
        categories: classes sorted by category id.
        annotations: the file's annotation objects per row. Masks are converted on demand.
        is_federated: whether each image is annotated for some classes only (LVIS), not for all (COCO).
    """

    images: tuple[ImageRecord, ...]
    categories: tuple[Category, ...]
    annotations: tuple[tuple[Mapping[str, Any], ...], ...]
    is_federated: bool

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.annotations), "annotations must be grouped by image"

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

    def ground_truth(self, row: int) -> GroundTruth:
        """Return the annotations of one image, with masks as RLE. Each call rasterises the polygons."""
        image, annotations = self.images[row], self.annotations[row]
        masks = tuple(
            rle_from_segmentation(one["segmentation"], image.image_size_hw, check=False) for one in annotations
        )
        boxes_xyxy = mask_boxes([]) if not masks else np.zeros((len(masks), 4), dtype=np.float32)
        for index, one in enumerate(annotations):
            if one.get("bbox") is None:
                boxes_xyxy[index] = mask_boxes([masks[index]])[0]
            else:
                x, y, width, height = one["bbox"]
                boxes_xyxy[index] = x, y, x + width, y + height
        return GroundTruth(
            image_size_hw=image.image_size_hw,
            boxes_xyxy=boxes_xyxy,
            masks=masks,
            class_indices=self.object_classes(row),
            is_crowd=self.object_is_crowd(row),
        )

    def object_classes(self, row: int) -> NDArray[np.int32]:
        """Return the class index of each annotation of an image, crowd regions included."""
        class_index_of = self.class_index_of
        return np.array([class_index_of[one["category_id"]] for one in self.annotations[row]], dtype=np.int32)

    def object_is_crowd(self, row: int) -> NDArray[np.bool_]:
        """Tell per annotation of an image whether it is a crowd region."""
        return np.array([bool(one.get("iscrowd")) for one in self.annotations[row]], dtype=bool)

    def object_segmentations(self, row: int, places: Iterable[int]) -> list[Any]:
        """Return the COCO `segmentation` of chosen annotations of an image; `places` index them."""
        return [self.annotations[row][place]["segmentation"] for place in places]

    def annotated_classes(self, row: int) -> NDArray[np.int32]:
        """Return the sorted indices of the classes with an annotation in the image. Crowd regions do not count."""
        annotations = self.annotations[row]
        found = {self.class_index_of[one["category_id"]] for one in annotations if not one.get("iscrowd")}
        return np.array(sorted(found), dtype=np.int32)

    def class_image_counts(self) -> NDArray[np.int64]:
        """Return the (num_classes,) numbers of images with an annotation of each class. Crowd regions do not count."""
        counts = np.zeros(self.num_classes, dtype=np.int64)
        for row in range(len(self)):
            counts[self.annotated_classes(row)] += 1
        return counts

    def class_instance_counts(self) -> NDArray[np.int64]:
        """Return the (num_classes,) numbers of annotations of each class. Crowd regions do not count."""
        counts = np.zeros(self.num_classes, dtype=np.int64)
        for annotations in self.annotations:
            for one in annotations:
                counts[self.class_index_of[one["category_id"]]] += not one.get("iscrowd")
        return counts

    def frequency_groups(self) -> NDArray[np.str_]:
        """Return the (num_classes,) frequency groups "r", "c" and "f" by the image counts of this set.

        Only the groups of a training set are meaningful. A class without annotation is "r".
        """
        return frequency_groups(self.class_image_counts())

    def subset(self, rows: Iterable[int]) -> "AnnotatedSet":
        """Return the chosen images in the order of `rows`, with the same classes."""
        chosen = list(rows)
        return AnnotatedSet(
            images=tuple(self.images[row] for row in chosen),
            categories=self.categories,
            annotations=tuple(self.annotations[row] for row in chosen),
            is_federated=self.is_federated,
        )

    def with_displayed_images(self) -> "AnnotatedSet":
        """Return the same set, with annotations of displayed images where neither size nor file says otherwise."""
        images = (replace(one, as_stored=False) if one.as_stored is None else one for one in self.images)
        return replace(self, images=tuple(images))

    def __add__(self, other: "AnnotatedSet") -> "AnnotatedSet":
        """Return the images of both sets. Both must have the same classes (`validate_same_categories`)."""
        return AnnotatedSet(
            images=self.images + other.images,
            categories=self.categories,
            annotations=self.annotations + other.annotations,
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
        categories: list[dict[str, Any]] = [
            {"id": one.category_id, "name": one.name} | ({"frequency": one.frequency.value} if one.frequency else {})
            for one in self.categories
        ]
        annotations = [dict(one) for of_image in self.annotations for one in of_image]
        return {"images": images, "annotations": annotations, "categories": categories}
