"""The strict reader of LVIS and COCO annotation files.

The reader refuses every defect that could fail a stage, and names the file and the id. Stages then trust the set.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import fs

from raylabel.dataset.annotated_copy import open_copy, write_copy
from raylabel.dataset.annotated_set import AnnotatedSet, Category, GroundTruth
from raylabel.dataset.image_records import ImageRecord
from raylabel.errors import InputError
from raylabel.files.file_systems import open_uri

__all__ = [
    "AnnotatedSet",
    "Category",
    "GroundTruth",
    "ImageRecord",
    "read_annotations",
    "validate_same_categories",
]


def read_annotations(path: str | Path, images_root: str | Path | None = None) -> AnnotatedSet:
    """Read and check an LVIS or COCO annotation file.

    A file is federated (LVIS) if any image has `neg_category_ids`. A list that is `null` counts as empty. Categories
    without annotations are allowed. An image without `file_name` (LVIS v1) has its file name from its `coco_url`. The
    name is the last two parts of the URL if that folder exists below the root, else the last part. `as_stored` of an
    image, which raylabel's exports have, says whether its annotations are of the stored or of the displayed pixels.

    Args:
        path: local path or URI of the JSON file.
        images_root: folder or URI prefix of the images. No name may lead out of it. None stands for the folder of the
            file, and for images that nobody reads: their names may be anything.

    Raises:
        InputError: the file is missing or not JSON; a list or field is missing or has the wrong type; an id or a file
            name is repeated; an id is unknown; two image ids differ by their type alone (1 and "1"); a number is not
            finite; a polygon has fewer than three points or lies far outside its image; an RLE does not have its
            image's size. The message names the file and the image, annotation or category.

    Examples:
        >>> import json
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import raylabel as rl
        >>> square = [[0, 0, 4, 0, 4, 4, 0, 4]]
        >>> content = {
        ...     "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        ...     "categories": [{"id": 5, "name": "tile"}],
        ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": square}],
        ... }
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "annotations.json")
        ...     _ = path.write_text(json.dumps(content))
        ...     annotated = rl.read_annotations(str(path))
        >>> annotated.class_names
        ('tile',)
        >>> annotated.ground_truth(0).boxes_xyxy.tolist()
        [[0.0, 0.0, 4.0, 4.0]]
    """
    path, images_root = str(path), None if images_root is None else str(images_root)
    file_system, local_path = open_uri(path)
    if file_system.get_file_info(local_path).type == fs.FileType.Directory:
        raise InputError(f"{path}: must be a JSON file, got a folder")
    with TemporaryDirectory(prefix="raylabel-") as folder:
        write_copy(path, images_root, folder)
        # What is mapped stays readable after the folder is gone.
        return open_copy(folder, path, images_root)


def validate_same_categories(first: AnnotatedSet, second: AnnotatedSet, *, files: tuple[str, str]) -> None:
    """Check that two sets have the same classes, by id and name.

    Args:
        first, second: the sets.
        files: the files of both, for the message.

    Raises:
        InputError: the classes differ; the message names the files, the first category that differs, and how many do on
            each side.
    """
    names, others = ({one.category_id: one.name for one in each.categories} for each in (first, second))
    known, there = set(names.items()), set(others.items())
    if known == there:
        return
    category_id, _ = min(known ^ there)
    here, other = files
    raise InputError(
        f"{other}: categories must be those of {here}, got {others.get(category_id, 'none')!r} in place of "
        f"{names.get(category_id, 'none')!r} for id {category_id}. {len(there - known)} of {len(there)} categories of "
        f"{other} and {len(known - there)} of {len(known)} of {here} have no partner. Give both files the same "
        "categories, with the same ids."
    )
