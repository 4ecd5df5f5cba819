"""Digests of image files by their content, whatever their names. Equal files have equal digests.

A digest covers the size, the first 16 kB and the last 2 kB of a file, because `check` reads no more of an image. Files
without compression are covered whole: their sizes are alike, and their first and last rows may be too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HEAD_BYTES = 1 << 14
TAIL_BYTES = 1 << 11

_WHOLE = (b"BM", b"II", b"MM", *(f"P{number}".encode() for number in range(1, 7)))
"""First bytes of BMP, TIFF and PPM files."""


def content_digest(content: bytes) -> int:
    """Return the digest of a file's content, a number below 2**64."""
    if content.startswith(_WHOLE):
        return _digest(len(content), content, b"")
    return _digest(len(content), content[:HEAD_BYTES], content[-TAIL_BYTES:])


def digest_of_ends(num_bytes: int, head: bytes, tail: bytes) -> int | None:
    """Return the digest of a file from its ends. None if the digest of such a file needs the whole content.

    Args:
        num_bytes: size of the file.
        head, tail: its first HEAD_BYTES and its last TAIL_BYTES bytes.
    """
    if head.startswith(_WHOLE) and num_bytes > len(head):
        return None
    return _digest(num_bytes, head, b"" if head.startswith(_WHOLE) else tail)


def _digest(num_bytes: int, *parts: bytes) -> int:
    # SHA-256, because CPUs have instructions for it. 64 bits suffice: of 10^13 pairs, 10^-6 are equal by chance.
    hashed = hashlib.sha256(num_bytes.to_bytes(8, "big"))
    for part in parts:
        hashed.update(part)
    return int.from_bytes(hashed.digest()[:8], "big")


@dataclass(frozen=True)
class Contents:
    """The contents of many images, sorted by digest.

    Attributes:
        digests: (N,) uint64, sorted.
        names: N names of the images, in the same order.
    """

    digests: NDArray[np.uint64]
    names: Sequence[str]

    @staticmethod
    def of(digests: NDArray[np.uint64], names: Sequence[str]) -> "Contents":
        """Sort the contents of images by digest."""
        order = np.argsort(digests, kind="stable")
        return Contents(digests[order], [names[place] for place in order.tolist()])

    def __len__(self) -> int:
        return len(self.digests)

    def repeated_text(self) -> str:
        """Say how many images have the content of another one, with an example. "" if none has."""
        again = np.flatnonzero(self.digests[1:] == self.digests[:-1])
        if not len(again):
            return ""
        first, second = sorted(self.names[place] for place in (again[0], again[0] + 1))
        images = "1 image has" if len(again) == 1 else f"{len(again)} images have"
        return f"{images} the content of another one, such as {first} = {second}"

    def name(self, digest: int) -> str | None:
        """Return the name of the image with this digest. None if there is none."""
        place = int(np.searchsorted(self.digests, np.uint64(digest)))
        return self.names[place] if place < len(self) and self.digests[place] == digest else None

    def places_in(self, other: "Contents") -> NDArray[np.int64]:
        """Return the places of the images whose content `other` has too."""
        return np.flatnonzero(np.isin(self.digests, other.digests))
