"""The exception for an unusable image, and the reasons that it may give."""

from raylabel.errors import InputError, ModelError

MODEL_FAILED = "model failed"

REASONS = {
    "missing": "nothing exists at the path or URI",
    "no permission": "the file, or its object, may not be read",
    "is a folder": "a folder has the name of an image",
    "name is not UTF-8": "the listing cannot hold its name",
    "outside of the pool": "its path lies neither in the pool's folder nor in `data.allowed_roots`",
    "not allowed": "a manifest names a scheme, host or endpoint that neither the pool nor `data.allowed_schemes` names",
    "not a file": "a device, a pipe or a socket",
    "unreadable URI": "the scheme is unknown, or the URI is not well formed",
    "container unreadable": "the tar or Parquet file is damaged",
    "zero bytes": "the file is empty",
    "not an image": "none of the known formats, whatever its suffix",
    "truncated": "the file ends too early",
    "corrupt": "the decoder gives up",
    "unsupported": "pixels of a kind without colour",
    "another size": "an annotated image has not the size of its annotations",
    "too large": "more pixels or bytes than `data.max_image_pixels` allows",
    "killed its worker": "workers died at this image again and again; the details say how many for want of memory",
    MODEL_FAILED: "the model raised an exception at this image alone, or has too little memory for it",
}


class ImageError(Exception):
    """An image to quarantine. The text is a key of `REASONS`, optionally followed by ": " and details."""


class ModelImageError(ImageError):
    """An image at which the model fails: "model failed: " and the exception's type and message.

    Attributes:
        traceback: traceback of the model's exception, without secrets.
    """

    def __init__(self, reason: str, traceback: str) -> None:
        super().__init__(reason)
        self.traceback = traceback


def unusable(uri: str, error: ImageError, *, kind: str) -> InputError:
    """Return the error of a stage that needs every image of a split.

    Args:
        uri: path or URI of the image.
        error: why the image can't be used.
        kind: adjective of the split's images, such as "validation".
    """
    message = f"{uri}: this {kind} image can't be used: {error}"
    return ModelError(f"{message}.", error.traceback) if isinstance(error, ModelImageError) else InputError(message)


def reason_kind(text: str) -> str:
    """Return the reason without its details, for counting."""
    return text.partition(":")[0]
