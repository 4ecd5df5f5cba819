"""Search of a pool for the images of the annotated splits, by content. A large pool is sampled."""

import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from raylabel.dataset.containers import PARQUET, is_container, split_reference
from raylabel.dataset.content import content_digest
from raylabel.dataset.image_headers import Examined
from raylabel.dataset.images import ImageError, read_content
from raylabel.dataset.overlaps import Overlap
from raylabel.dataset.pool.image import PoolImage
from raylabel.errors import InputError
from raylabel.files.file_systems import local_path
from raylabel.files.reading import file_bytes
from raylabel.progress import Progress
from raylabel.threads import READING_THREADS, map_on_threads

MAX_COMPARED = 10_000
"""Largest number of pool images that a search reads, unless it is thorough."""

MAX_SIZES = 100_000
"""Largest number of local files that a search asks for their size while the pool is listed, unless it is thorough."""

_EXAMPLES = 2


@dataclass
class PoolSearch:
    """Search of a pool that is listed anyway. An image is a candidate unless its size rules it out.

    Candidates are read and compared with every split; if there are more than MAX_COMPARED, a random sample of them.
    Rows of Parquet files are no candidates, because reading a few of them reads most of the file.

    Attributes:
        splits: name -> what was found out about the images of a split.
        max_pixels: see `read_image`.
        thorough: compare all candidates, rows of Parquet files too.
        num_seen, num_packed, num_candidates, num_compared: images of the pool; of Parquet files that were not
            compared; candidates; candidates that were compared.
    """

    splits: Mapping[str, Examined]
    max_pixels: int
    thorough: bool = False
    num_seen: int = 0
    num_packed: int = 0
    num_candidates: int = 0
    num_compared: int = 0
    _num_shared: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    _candidates: list[PoolImage] = field(default_factory=list)
    _num_sizes: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self._sizes = frozenset(np.concatenate([one.sizes for one in self.splits.values()]).tolist())

    def see(self, image: PoolImage) -> None:
        """Take an image of the pool as a candidate, unless its size or its place rules it out."""
        self.num_seen += 1
        if image.refusal is not None:
            return
        reference = split_reference(image.uri)
        if reference and is_container(reference[0], PARQUET) and not self.thorough:
            self.num_packed += 1
            return
        num_bytes = image.num_bytes if image.num_bytes is not None or reference else self._size_on_disk(image.uri)
        if num_bytes is not None and num_bytes not in self._sizes:
            return
        self.num_candidates += 1
        if len(self._candidates) < MAX_COMPARED:
            self._candidates.append(image)
            if self.thorough and len(self._candidates) == MAX_COMPARED:
                self._compare()
        elif (place := self._random.randrange(self.num_candidates)) < MAX_COMPARED:
            self._candidates[place] = image

    def overlaps(self) -> list[Overlap]:
        """Compare the candidates, and return the overlap of each split with the pool, if any."""
        self._compare()
        return [
            Overlap(sets=(name, "pool"), num_images=self._num_shared[name], examples=tuple(self._examples[name]))
            for name in self.splits
            if self._num_shared[name]
        ]

    def text(self) -> str:
        """Say how far the search looked."""
        packed = f"; {self.num_packed} in Parquet files were not compared" if self.num_packed else ""
        return (
            f"{self.num_candidates} of {self.num_seen} images may be in a split, by their size in bytes; "
            f"{self.num_compared} of them were compared, {sum(self._num_shared.values()) or 'none'} are in one{packed}"
        )

    def _size_on_disk(self, uri: str) -> int | None:
        path = local_path(uri)
        if path is None or (self._num_sizes >= MAX_SIZES and not self.thorough):
            return None
        self._num_sizes += 1
        try:
            return os.stat(path).st_size
        except (OSError, ValueError):
            return None  # reading the image tells why

    def _compare(self) -> None:
        if not self._candidates:
            return
        with Progress("check: pool images", len(self._candidates)) as progress:
            digests = map_on_threads(self._digest, self._candidates, num_threads=READING_THREADS)
            for done, (image, digest) in enumerate(zip(self._candidates, digests, strict=True), start=1):
                progress.update(done)
                for name, split in self.splits.items():
                    if digest is not None and (file_name := split.contents.name(digest)) is not None:
                        self._num_shared[name] += 1
                        examples = self._examples.setdefault(name, [])
                        if len(examples) < _EXAMPLES:
                            examples.append((file_name, image.image_id))
        self.num_compared += len(self._candidates)
        self._candidates = []

    def _digest(self, image: PoolImage) -> int | None:
        """Return the digest of an image's content. None if its size rules it out, or it can't be read."""
        try:
            num_bytes = image.num_bytes
            if num_bytes is None and split_reference(image.uri) is None:
                num_bytes = file_bytes(image.uri)
            if num_bytes is not None and num_bytes not in self._sizes:
                return None
            return content_digest(read_content(image.uri, max_pixels=self.max_pixels))
        except (ImageError, InputError, ValueError):
            return None  # no file system reads such a URI, or labelling quarantines the image
