"""RUN/classes.json: the classes of a run in the order of their index."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raylabel.errors import InputError
from raylabel.files.json_files import commit_json, read_json
from raylabel.files.json_text import checked_as
from raylabel.files.reading import exists
from raylabel.run.data import RunData
from raylabel.run.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunClasses:
    """The classes of a run in the order of their index. RUN/classes.json stores them.

    Attributes:
        category_ids: (num_classes,) int64, the category ids of the data set.
        names: the class names.
        frequency_groups: (num_classes,) "r", "c" or "f", by training images.
        num_train_images: (num_classes,) int64, annotated images that the student learns from.
        is_federated: whether the labelled set is annotated as LVIS is.
    """

    category_ids: NDArray[np.int64]
    names: tuple[str, ...]
    frequency_groups: NDArray[np.str_]
    num_train_images: NDArray[np.int64]
    is_federated: bool

    @property
    def num_classes(self) -> int:
        """Number of classes without background."""
        return len(self.names)


_Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, kw_only=True)
class _StoredCategory:
    category_id: _Integer
    name: str
    frequency_group: Literal["r", "c", "f"]
    num_train_images: _Integer


@dataclass(frozen=True, kw_only=True)
class ClassesFile:
    """The content of classes.json."""

    categories: list[_StoredCategory]
    is_federated: bool


def commit_classes(run: RunFolder, data: RunData) -> None:
    """Write RUN/classes.json: the classes in the order of their index.

    `export`, the report and users' tools read it.
    """
    labelled = data.student_labelled
    classes = RunClasses(
        category_ids=labelled.category_ids,
        names=tuple(labelled.class_names),
        frequency_groups=data.frequency_groups,
        num_train_images=labelled.class_image_counts(),
        is_federated=labelled.is_federated,
    )
    write_classes(classes_uri(run), classes)


def write_classes(uri: str, classes: RunClasses) -> None:
    """Write classes into a classes.json."""
    categories: list[dict[str, Any]] = [
        {
            "category_id": int(classes.category_ids[index]),
            "name": classes.names[index],
            "frequency_group": str(classes.frequency_groups[index]),
            "num_train_images": int(classes.num_train_images[index]),
        }
        for index in range(classes.num_classes)
    ]
    commit_json(uri, {"categories": categories, "is_federated": classes.is_federated})


def load_categories(run: RunFolder) -> list[dict[str, Any]]:
    """Read the classes in the order of their index: category_id, name, frequency_group, num_train_images.

    Raises:
        InputError: classes.json is missing or damaged.
    """
    return [asdict(one) for one in _read(run).categories]


def has_classes(run: RunFolder) -> bool:
    """Whether the run has a classes.json."""
    return exists(classes_uri(run))


def classes_uri(run: RunFolder) -> str:
    """Return the path or URI of classes.json."""
    return run.path("classes.json")


def load_classes(run: RunFolder) -> RunClasses:
    """Read the classes as arrays.

    Raises:
        InputError: classes.json is missing or damaged.
    """
    content = _read(run)
    categories = content.categories
    return RunClasses(
        category_ids=np.array([one.category_id for one in categories], np.int64),
        names=tuple(one.name for one in categories),
        frequency_groups=np.array([one.frequency_group for one in categories]),
        num_train_images=np.array([one.num_train_images for one in categories], np.int64),
        is_federated=content.is_federated,
    )


def _read(run: RunFolder) -> ClassesFile:
    uri = classes_uri(run)
    if not has_classes(run):
        raise InputError(f"{uri}: no such file. Run prototypes first.")
    return checked_as(ClassesFile, read_json(uri), uri)
