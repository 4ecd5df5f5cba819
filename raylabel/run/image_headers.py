"""RUN/data/headers-*.parquet: what the headers of a split's images told, so that `check` reads only changed images."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.dataset.image_headers import Examined, Headers, examine_images
from raylabel.files.digests import digest
from raylabel.files.reading import exists
from raylabel.files.tables import commit_table, read_table
from raylabel.run.annotation_copies import SURE_AFTER_NS, data_uri
from raylabel.run.data import RunData
from raylabel.schema import IMAGE_HEADERS


def examine_split(
    data: RunData,
    name: str,
    annotated: AnnotatedSet,
    stamps: Mapping[str, tuple[int, int]],
    *,
    thorough: bool,
    on_image: Callable[[int], None],
) -> Examined:
    """Examine the images of a split; see `examine_images`. Images that have not changed are not read again.

    Args:
        data: the run's data. Without a run, every image is read.
        name: `labelled`, `calibration` or `validation`.
        annotated: the split.
        stamps: size in bytes and time of change in nanoseconds by URI. Images without are read each time.
        thorough, on_image: see `examine_images`.
    """
    max_pixels = data.config.data.max_image_pixels
    if data.run is None:
        return examine_images(annotated.images, max_pixels=max_pixels, thorough=thorough, on_image=on_image)
    of = [data.split_digest(name), data.config.data.images, max_pixels]
    uri = data_uri(data.run, f"headers-{digest(of)[:16]}.parquet")
    now = np.array([stamps.get(one, (-1, -1)) for one in annotated.images.uris()], dtype=np.int64).reshape(-1, 2)
    known, started = _known(uri, now), time.time_ns()
    found = examine_images(annotated.images, max_pixels=max_pixels, thorough=thorough, known=known, on_image=on_image)
    if thorough or not np.array_equal(found.headers.is_sound, known.is_sound):
        # A file that was changed a moment ago may be changed again without another time.
        is_kept = found.headers.is_sound & (now[:, 0] == found.headers.sizes) & (started - now[:, 1] > SURE_AFTER_NS)
        commit_table(uri, _table(found.headers, np.where(is_kept[:, None], now, -1)))
    return found


def _known(uri: str, now: NDArray[np.int64]) -> Headers:
    """Return what the run knows of images whose files have not changed."""
    if not exists(uri):
        return Headers.unknown(len(now))
    try:
        table = read_table(uri).cast(IMAGE_HEADERS)
    except (pa.ArrowException, ValueError, OSError):
        return Headers.unknown(len(now))
    if table.num_rows != len(now):
        return Headers.unknown(len(now))
    num_bytes, changed_ns, content, turn = (column.to_numpy() for column in table.columns)
    is_same = (num_bytes >= 0) & (num_bytes == now[:, 0]) & (changed_ns == now[:, 1])
    return Headers(is_sound=is_same, sizes=num_bytes, digests=content, turns=turn)


def _table(headers: Headers, stamps: NDArray[np.int64]) -> pa.Table:
    columns = {
        "num_bytes": stamps[:, 0],
        "changed_ns": stamps[:, 1],
        "content": headers.digests,
        "turn": headers.turns,
    }
    return pa.table(columns, schema=IMAGE_HEADERS)
