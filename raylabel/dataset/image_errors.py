"""The exception for an unusable image, and the reasons that it may give."""

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
    "killed its worker": "the worker died twice at this image",
}


class ImageError(Exception):
    """An image to quarantine. The text is a key of `REASONS`, optionally followed by ": " and details."""


def reason_kind(text: str) -> str:
    """Return the reason without its details, for counting."""
    return text.partition(":")[0]
