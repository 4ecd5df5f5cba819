"""How long `raylabel check` takes for the annotated images: their headers, and all their pixels.

    PYTHONPATH=benchmarks:tests/support python benchmarks/check_images.py --images 100000 --s3-images 5000

Photographs of 640 x 480 pixels, as JPEG of about 190 kB. On the disk all are one file under many names, so its content
stays in memory. The S3 server is moto's on loopback, in one process: a real store answers later, but to many at once.
Every row reads the same images in this process; the ratio is against the headers on the disk.
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from object_store import CREDENTIALS, make_bucket, s3_server
from raylabel.dataset.annotated_set import AnnotatedSet, Category
from raylabel.dataset.image_headers import examine_images
from raylabel.dataset.image_records import ImageRecord
from raylabel.dataset.inspection import inspect_annotations
from raylabel.files.committing import commit_bytes
from side_by_side import peak_mebibytes, reset_peak

HEIGHT, WIDTH = 480, 640
LINKS = 30_000
"""Names of one file. No usual file system allows fewer."""
ANNOTATIONS_AN_IMAGE = 12.7
"""LVIS's training set has 1.27 million annotations of 100,000 images."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--s3-images", type=int, default=5000)
    arguments = parser.parse_args()
    content = photograph()
    print(f"{'':<28}{'images':>9}{'seconds':>9}{'CPU s':>8}{'images/s':>10}{'ratio':>7}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        uris = on_disk(Path(folder), content, arguments.images)
        headers = measure("headers, disk", uris, unusable)
        few = uris[: len(uris) // 50]
        measure("all pixels, disk", few, lambda found: unusable(found, thorough=True), base=headers)
        annotated = annotated_set(uris)
        measure("annotations", uris, lambda found: inspect_annotations(annotated), base=headers)
    if arguments.s3_images:
        with s3_server() as endpoint:
            os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}
            make_bucket(endpoint, "images")
            uris = [f"s3://images/{number:06d}.jpg" for number in range(arguments.s3_images)]
            for uri in uris:
                commit_bytes(uri, content)
            measure("headers, S3 on loopback", uris, unusable, base=headers)


def photograph() -> bytes:
    """Return a JPEG of smooth noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((WIDTH, HEIGHT))) + rng.integers(0, 20, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def on_disk(folder: Path, content: bytes, num_images: int) -> list[str]:
    uris = [str(folder / f"{number:06d}.jpg") for number in range(num_images)]
    for place, uri in enumerate(uris):
        if place % LINKS == 0:
            Path(uri).write_bytes(content)
        else:
            os.link(uris[place - place % LINKS], uri)
    return uris


def unusable(uris: list[str], *, thorough: bool = False) -> None:
    images = [ImageRecord(image_id=uri, file_name=uri, uri=uri, height=HEIGHT, width=WIDTH) for uri in uris]
    assert not examine_images(images, max_pixels=10**8, thorough=thorough, on_image=lambda done: None).unusable


def annotated_set(uris: list[str]) -> AnnotatedSet:
    """Return a set with polygons of 30 points, 12.7 an image. All images share a few annotations, to save memory."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    rows = []
    for num in rng.poisson(ANNOTATIONS_AN_IMAGE, 1000):
        centres, radii = rng.uniform((60, 60), (WIDTH - 60, HEIGHT - 60), (num, 2)), rng.uniform(4, 60, num)
        points = centres[:, None] + radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        rows.append(tuple({"category_id": 1, "segmentation": [one.ravel().tolist()]} for one in points))
    return AnnotatedSet.of_records(
        images=tuple(ImageRecord(image_id=uri, file_name=uri, uri=uri, height=HEIGHT, width=WIDTH) for uri in uris),
        categories=(Category(category_id=1, name="thing"),),
        annotations=tuple(rows[place % len(rows)] for place in range(len(uris))),
        is_federated=False,
    )


def measure(name: str, uris: list[str], work: Callable[[list[str]], object], *, base: float | None = None) -> float:
    """Print a row, and return the images per second."""
    before = reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    work(uris)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    rate = len(uris) / seconds
    peak = peak_mebibytes() - before
    print(
        f"{name:<28}{len(uris):>9}{seconds:>9.1f}{cpu:>8.1f}{rate:>10.0f}{(rate / base if base else 1):>7.2f}"
        f"{peak:>10.0f}",
        flush=True,
    )
    return rate


if __name__ == "__main__":
    main()
