"""The exception for an image that cannot be used."""


class ImageError(Exception):
    """An image that is quarantined; the text is the short reason, such as "truncated"."""
