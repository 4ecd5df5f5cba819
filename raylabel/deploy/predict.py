"""The command `predict`: a trained model on new images, written to one file.

The images are listed, cut into shards and labelled as the stage `label` does it, in a folder beside the file. Few
images are predicted in this process, many on Ray. An interrupted call leaves the folder, and the next one continues.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType

from raylabel.deploy.model_folder import ModelFolder, find_model
from raylabel.deploy.pictures import draw_images
from raylabel.deploy.prediction_file import prediction_file, suffix_of
from raylabel.deploy.work_folder import label_images
from raylabel.errors import InputError
from raylabel.files.committing import committed_file
from raylabel.files.file_systems import absolute
from raylabel.files.moving import remove
from raylabel.files.paths import join, split
from raylabel.files.reading import exists, file_type, list_files
from raylabel.redaction import redacted
from raylabel.run.folder import RunFolder
from raylabel.run.labels.kept import selected_batches
from raylabel.run.labels.shards import STATUS_OK, committed_shards
from raylabel.run.labels.survey import unlabelled_images
from raylabel.run.lease import hold_lease

_SHOWN = 10
"""Images that can't be read, shown on the console. A file beside the output has all of them."""


def predict_files(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    draw: str | Path | None = None,
    min_score: float | None = None,
    raw: bool = False,
    teacher: bool = False,
    use_ray: bool = False,
) -> dict[str, int]:
    """Predict images with a trained model, and write the predictions that the model's selection keeps.

    Args:
        model: see `find_model`.
        images: an image, or any pool that `iter_pool` lists; path or URI.
        out: file to write: `.json` (a COCO results file), `.jsonl` or `.parquet` (see `prediction_file`).
        draw: new folder for pictures of the images with masks, class names and scores.
        min_score: smallest calibrated score, in place of the smallest scores of the run's selection.
        raw: raw scores, and every prediction.
        teacher: take a run's teacher, not its student.
        use_ray: predict on Ray, however few the images are.

    Returns:
        The numbers of `images`, `objects` and `unreadable`: images without predictions because they can't be used.

    Raises:
        InputError: the model, the images or an argument is refused, the file exists, no image can be used, or another
            process writes the same file.
        StorageError: the disk or the network failed. The same call continues.
    """
    out = _absolute(out)
    suffix_of(out)
    folder, name = split(out)
    work = RunFolder(join(folder, f".{name}.unfinished"))  # hidden, because the images may be in the same folder
    if exists(out):
        raise InputError(f"{out}: exists already. Remove it, or give another --out.")
    is_continued = exists(work.uri)
    if draw is not None:
        draw = _absolute(draw)
        if draw == out or file_type(draw) not in (FileType.Directory, FileType.NotFound):
            raise InputError(f"{draw}: --draw must be a folder, got a file. Give a new folder.")
        if list_files(draw, recursive=True) and not is_continued:
            raise InputError(f"{draw}: the folder is not empty. Give a new one.")
    found = find_model(model, teacher=teacher, raw=raw)
    found = replace(found, selection=found.selecting(min_score))
    for remark in found.remarks:
        print(f"predict: WARNING: {remark}", flush=True)
    with hold_lease(work) as driver_id:
        with _removed_if_refused(work):
            label_images(work, found, _absolute(images), driver_id=driver_id, use_ray=use_ray)
            counts = _write(work, found, out, draw)
        remove(work.uri)
    return counts


def _absolute(place: str | Path) -> str:
    return absolute(str(place))


@contextmanager
def _removed_if_refused(work: RunFolder) -> Iterator[None]:
    """Remove the folder after bad input, unless it holds a shard that the next call needs not make again."""
    try:
        yield
    except InputError:
        if not committed_shards(work):
            remove(work.uri)
        raise


def _write(work: RunFolder, model: ModelFolder, out: str, draw: str | Path | None) -> dict[str, int]:
    """Write the output from the shards: unreadable images first, the file itself last.

    Raises:
        InputError: no image could be used. The shards are removed, because the images may be repaired.
    """
    shards = committed_shards(work).values()
    counts = {"images": 0, "objects": 0, "unreadable": 0}
    with prediction_file(out, model) as file:
        for shard in shards:
            for batch in selected_batches(shard, model.selection, model.classes.frequency_groups):
                file.write(batch)
                counts["images"] += batch.num_rows
                counts["unreadable"] += sum(status != STATUS_OK for status in batch["status"].to_pylist())
                counts["objects"] += len(batch["instances"].flatten())
                if draw is not None:
                    draw_images(batch, str(draw), model)
        if counts["unreadable"]:
            _list_unreadable(list(shards), out, counts["unreadable"])
        if counts["unreadable"] == counts["images"]:
            first = next(_unreadable(list(shards)))
            remove(work.uri)
            raise InputError(
                f"none of {counts['images']} images can be used, so nothing is written. "
                f"First: {first['uri']} ({first['reason']})."
            )
    return counts


def _unreadable(shards: list[str]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from unlabelled_images(shard).to_pylist()


def _list_unreadable(shards: list[str], out: str, num: int) -> None:
    """Show the first images that can't be used, and write all of them into a file if there are more."""
    for place, one in enumerate(_unreadable(shards)):
        if place == _SHOWN:
            break
        print(f"predict: not readable: {redacted(one['uri'])}: {one['reason']}", flush=True)
    if num > _SHOWN:
        folder, name = split(out)
        uri = join(folder, f"{name}.unreadable.jsonl")
        print(f"predict: {num - _SHOWN} more are not readable, all are listed in {redacted(uri)}", flush=True)
        _write_list(uri, shards)


def _write_list(uri: str, shards: list[str]) -> None:
    with committed_file(uri) as path, open(path, "w") as file:
        file.writelines(f"{json.dumps(one)}\n" for one in _unreadable(shards))
