"""The exception for an image that cannot be used, and the words in which that is said."""

REASONS = {
    "missing": "nothing is there",
    "no permission": "the file, or its object, may not be read",
    "is a folder": "a folder with the name of an image",
    "name is not UTF-8": "the listing can't write its name",
    "outside of the pool": "its path climbs out of the pool's folder",
    "not a file": "a device, a pipe or a socket",
    "unreadable URI": "the scheme is unknown, or the URI is not well formed",
    "container unreadable": "the tar or Parquet file is damaged",
    "zero bytes": "the file is empty",
    "not an image": "of none of the known formats, whatever its suffix",
    "truncated": "the file ends too early",
    "corrupt": "the decoder gives up",
    "unsupported": "a kind of pixel that has no colour",
    "another size": "of an annotated image: not the one that its annotations have",
    "too large": "more pixels or bytes than `data.max_image_pixels` allows",
    "killed its worker": "the worker died twice at this image",
}


class ImageError(Exception):
    """An image that is quarantined; the text is one of `REASONS`, perhaps followed by ": " and particulars."""


def reason_kind(text: str) -> str:
    """The reason without its particulars, to be counted."""
    return text.partition(":")[0]
