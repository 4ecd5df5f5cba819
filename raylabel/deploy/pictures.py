"""Pictures of predicted images: one JPEG per image, named by the image's id."""

import posixpath

import numpy as np
import pyarrow as pa

from raylabel.dataset.image_errors import ImageError
from raylabel.dataset.image_source import ImageSource, read_source
from raylabel.deploy.model_folder import ModelFolder
from raylabel.deploy.scored_instances import draw_scored
from raylabel.files.committing import commit_bytes
from raylabel.files.file_systems import split_options
from raylabel.files.paths import join
from raylabel.masks.rle import Rle
from raylabel.predictions.drawing import encode_picture
from raylabel.redaction import redacted
from raylabel.run.labels.shards import STATUS_OK

MIN_LONG_SIDE = 640
"""Length in pixels of a picture's long side. Smaller images are enlarged, because texts would cover them."""


def draw_images(batch: pa.RecordBatch, folder: str, model: ModelFolder) -> None:
    """Write a picture of each image that could be read.

    Args:
        batch: rows of schema.LABELS.
        folder: path or URI of the folder.
        model: the model that predicted.
    """
    names, max_pixels = model.classes.names, model.config.data.max_image_pixels
    for image in batch.to_pylist():
        if image["status"] != STATUS_OK:
            continue
        size_hw, found = (image["height"], image["width"]), image["instances"]
        source = ImageSource(image["uri"], size_hw, bool(image["as_stored"]))
        try:
            pixels_HW3 = read_source(source, max_pixels=max_pixels)
        except ImageError as error:
            print(f"predict: not drawn: {redacted(image['uri'])}: {error}", flush=True)
            continue
        picture = draw_scored(
            pixels_HW3,
            [Rle(size=list(size_hw), counts=one["mask_counts"]) for one in found],
            [names[one["class_index"]] for one in found],
            np.array([one["calibrated_score"] for one in found]),
            long_side=max(MIN_LONG_SIDE, *size_hw),
        )
        commit_bytes(join(folder, picture_name(image["image_id"])), encode_picture(picture))


def picture_name(image_id: str) -> str:
    """Return the relative path of an image's picture: its id, as a path that stays in its folder, ending with .jpg."""
    path = split_options(image_id)[0].rpartition("://")[2]
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".", "..")]
    name = "/".join(parts) or "image"
    return name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"
