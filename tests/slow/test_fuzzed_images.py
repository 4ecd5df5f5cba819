"""Ten thousand damaged files in the label stage: each becomes a row. Nothing crashes, hangs or takes much memory."""

import io
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prepared import prepared_run
from raylabel.config import dump_config
from raylabel.dataset.image_errors import REASONS, reason_kind
from raylabel.dataset.synthetic.generate import generate
from raylabel.files.json_files import read_json
from raylabel.files.tables import read_table
from raylabel.run.labels.shards import STATUS_OK, committed_shards
from runs import finish, start, write_config

pytestmark = pytest.mark.slow

NUM_FILES = 10_000
MAX_SECONDS = 600.0
MAX_WORKER_BYTES = 3 * 2**30


def sound_files(photographs: Path) -> list[bytes]:
    """Return photographs, and one of them in every other format and mode."""
    paths = sorted(photographs.glob("**/*.jpg"), key=lambda path: path.stat().st_size)[:40]
    picture = Image.open(paths[0]).convert("RGB").resize((120, 80))
    frames = [picture.rotate(angle) for angle in (0, 90)]
    small = [
        _encoded(picture, "PNG"), _encoded(picture.convert("P"), "PNG", transparency=0), _encoded(picture, "BMP"),
        _encoded(picture.convert("L"), "PNG", optimize=True), _encoded(picture.convert("RGBA"), "PNG"),
        _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), _encoded(picture, "PPM"),
        *(_encoded(picture, "TIFF", compression=f"tiff_{kind}") for kind in ("lzw", "jpeg", "adobe_deflate")),
        _encoded(picture, "TIFF"), _encoded(picture, "TIFF", compression="packbits"),
        _encoded(picture, "WEBP"), _encoded(picture, "WEBP", lossless=True), _encoded(picture.convert("L"), "PPM"),
        _encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), _encoded(picture.convert("1"), "PPM"),
        _encoded(picture, "JPEG", progressive=True), _encoded(picture.convert("CMYK"), "JPEG"),
        _encoded(picture, "MPO", save_all=True, append_images=frames[1:]), _encoded(picture.convert("P"), "BMP"),
    ]  # fmt: skip
    return [path.read_bytes() for path in paths] + small * 2


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(sound: list[bytes], num: int, seed: int) -> Iterator[bytes]:
    """Damage files: flip bytes, cut them off, splice two together, or change numbers in their headers."""
    rng = np.random.default_rng(seed)

    def flipped(content: bytearray) -> None:
        for at in rng.integers(0, len(content), rng.integers(1, 20)):
            content[at] = rng.integers(0, 256)

    def cut(content: bytearray) -> None:
        del content[rng.integers(0, len(content)) :]

    def spliced(content: bytearray) -> None:
        other = sound[rng.integers(len(sound))]
        content[rng.integers(0, len(content)) :] = other[rng.integers(0, len(other)) :]

    def header(content: bytearray) -> None:
        for at in rng.integers(0, min(64, len(content)), rng.integers(1, 4)):
            content[at] = rng.choice([0, 1, 127, 128, 255])

    def repeated(content: bytearray) -> None:
        start = rng.integers(0, len(content))
        content[start:start] = content[start : start + rng.integers(1, 1000)] * rng.integers(1, 20)

    changes: list[Callable[[bytearray], None]] = [flipped, cut, spliced, header, repeated]
    for _ in range(num):
        content = bytearray(sound[rng.integers(len(sound))])
        for change in rng.choice(len(changes), rng.integers(1, 3)):
            if content:
                changes[change](content)
        yield bytes(content)


def test_ten_thousand_damaged_files(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    generate(tmp_path, num_images=40, num_classes=6, image_size=64)
    config, path = write_config(
        tmp_path, tmp_path, "fakes:FakeSegmenter", shard_size=500, score_threshold=0.9, max_bad_fraction=1.0
    )
    config = replace(config, data=replace(config.data, max_image_pixels=1_000_000))
    Path(path).write_text(dump_config(config))
    pool = tmp_path / "damaged"
    pool.mkdir()
    suffixes = (".jpg", ".png", ".gif", ".tif")
    for index, content in enumerate(mutated(sound_files(shared_data("coco_dev_320")), NUM_FILES, seed=0)):
        (pool / f"{index:05d}{suffixes[index % len(suffixes)]}").write_bytes(content)
    run = prepared_run(config, tmp_path / "run")

    begun = time.monotonic()
    finish(start("label", path, "--out", run.uri, "--data.pool", str(pool)), within=MAX_SECONDS)
    seconds = time.monotonic() - begun

    rows = [row for uri in committed_shards(run).values()
            for row in read_table(uri).select(["image_id", "status", "height", "width"]).to_pylist()]  # fmt: skip
    assert len({row["image_id"] for row in rows}) == len(rows) == NUM_FILES
    kinds = Counter(reason_kind(row["status"]) for row in rows)
    print(f"{seconds:.0f} s, {dict(kinds)}")
    assert kinds.keys() <= REASONS.keys() | {STATUS_OK}
    assert kinds["killed its worker"] == 0
    assert min(kinds[STATUS_OK], kinds["truncated"], kinds["corrupt"], kinds["not an image"]) > 100
    assert all((row["height"] > 0) == (row["status"] == STATUS_OK) for row in rows)
    counted = read_json(run.path("labels", "artifact.json"))["quarantined_by_reason"]
    assert counted == {kind: num for kind, num in kinds.items() if kind != STATUS_OK}
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MAX_WORKER_BYTES
