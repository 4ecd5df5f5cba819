"""Ways to label images. Each returns {"start": Unix seconds, "end": ..., "images": ...} of the part that counts."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from raylabel.cluster.size_batches import batches_by_size
from raylabel.config import Config
from raylabel.dataset.images import ImageError, read_image
from raylabel.files.tables import commit_table, read_table_metadata
from raylabel.models.saved import load_segmenter
from raylabel.predictions.instances import Instances
from raylabel.run.folder import RunFolder, load_run_config
from raylabel.run.labels.rows import InstanceRows
from raylabel.run.labels.shards import committed_shards
from raylabel.schema import LABELS

CORES = os.cpu_count() or 1
MAX_PIXELS = 50_000_000
SHARD = 16
"""Images per file."""


def rows_of(found: Sequence[Instances], uris: Sequence[str], top_k: int) -> pa.Table:
    """Build the same rows as the label stage, with raw scores in place of calibrated scores."""
    rows = InstanceRows(top_k=top_k)
    for one in found:
        rows.append(one)
    heights, widths = np.array([one.image_size_hw for one in found], np.int32).T
    columns = {
        "image_id": list(uris),
        "uri": list(uris),
        "height": heights,
        "width": widths,
        "as_stored": [False] * len(found),
        "status": ["ok"] * len(found),
        "instances": rows.to_arrow(rows.column("raw_score")),
    }
    return pa.table(columns, schema=LABELS)


def to_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float().div_(255)


def predictor(run: RunFolder, config: Config) -> Callable[[list[torch.Tensor]], list[Instances]]:
    segmenter, _ = load_segmenter(run.path("teacher"))
    limits = {"score_threshold": config.label.score_threshold, "max_per_image": config.label.max_per_image}

    def predict(images: list[torch.Tensor]) -> list[Instances]:
        with torch.inference_mode():
            return segmenter.predict(images, **limits)

    return predict


class Output:
    """Collects the instances of images, and writes one file per `SHARD` images."""

    def __init__(self, folder: Path, top_k: int) -> None:
        self._folder, self._top_k = folder, top_k
        self._found: list[Instances] = []
        self._uris: list[str] = []
        self._number = 0

    def add(self, uri: str, found: Instances) -> None:
        self._uris.append(uri)
        self._found.append(found)
        if len(self._found) == SHARD:
            self.flush()

    def flush(self) -> None:
        if self._found:
            table = rows_of(self._found, self._uris, self._top_k)
            commit_table(str(self._folder / f"{self._number:06d}.parquet"), table)
            self._found, self._uris, self._number = [], [], self._number + 1


def run_loop(run: RunFolder, uris: list[str], folder: Path) -> dict[str, float]:
    config = load_run_config(run)
    predict, output = predictor(run, config), Output(folder, config.label.top_k)
    predict([to_tensor(read_image(uris[0], max_pixels=MAX_PIXELS))])
    start = time.time()
    for uri in uris:
        [found] = predict([to_tensor(read_image(uri, max_pixels=MAX_PIXELS))])
        output.add(uri, found)
    output.flush()
    return {"start": start, "end": time.time(), "images": len(uris)}


def run_loader(run: RunFolder, uris: list[str], folder: Path, num_workers: int) -> dict[str, float]:
    config = load_run_config(run)
    predict, output = predictor(run, config), Output(folder, config.label.top_k)
    loader = torch.utils.data.DataLoader(
        Images(uris), batch_size=config.label.batch_size, num_workers=num_workers, collate_fn=list
    )
    predict([Images(uris)[0][1]])
    start = time.time()
    for batch in loader:
        for (uri, _), found in zip(batch, predict([image for _, image in batch]), strict=True):
            output.add(uri, found)
    output.flush()
    return {"start": start, "end": time.time(), "images": len(uris)}


class Images(torch.utils.data.Dataset[Any]):
    def __init__(self, uris: list[str]) -> None:
        self._uris = uris

    def __len__(self) -> int:
        return len(self._uris)

    def __getitem__(self, row: int) -> tuple[str, torch.Tensor]:
        return self._uris[row], to_tensor(read_image(self._uris[row], max_pixels=MAX_PIXELS))


def run_ceiling(run: RunFolder, uris: list[str], folder: Path) -> dict[str, float]:
    """Label a part of the images on one thread. `CORES` such processes run at the same time."""
    torch.set_num_threads(1)
    config = load_run_config(run)
    predict, output = predictor(run, config), Output(folder, config.label.top_k)
    predict([to_tensor(read_image(uris[0], max_pixels=MAX_PIXELS))])
    decoded = ((row, read_image(uri, max_pixels=MAX_PIXELS)) for row, uri in enumerate(uris))
    cpu, start = time.process_time(), time.time()
    for rows, images in batches_by_size(decoded, max_images=config.label.batch_size, max_pixels=1 << 24):
        assert not isinstance(images, ImageError)
        for row, found in zip(rows, predict([to_tensor(image) for image in images]), strict=True):
            output.add(uris[row], found)
    output.flush()
    return {"start": start, "end": time.time(), "images": len(uris), "cpu": time.process_time() - cpu}


def run_raylabel(run: RunFolder, num_workers: int, *, is_warm_only: bool) -> dict[str, float]:
    """Run the label stage. Only the time in which all workers are busy counts, by the metadata of the shards."""
    import ray

    from raylabel.stages import label

    begun = time.time()
    if num_workers > CORES:
        ray.init(address="local", num_cpus=2 * num_workers, include_dashboard=False, log_to_driver=False)
    label.run_stage(load_run_config(run), run)
    ended = time.time()
    shards = [read_table_metadata(uri) for uri in committed_shards(run).values()]
    ends = np.array([float(shard["finished_at"]) for shard in shards])
    starts = ends - [float(shard["seconds"]) for shard in shards]
    start = np.sort(ends if is_warm_only else starts)[num_workers - 1]
    end = np.sort(ends)[-num_workers]
    shares = (np.minimum(ends, end) - np.maximum(starts, start)).clip(0) / (ends - starts)
    images = float(shares @ [int(shard["num_images"]) for shard in shards])
    phases = ("read", "predict", "encode", "write")
    return {
        "start": float(start),
        "end": float(end),
        "images": images,
        "ray_start": float(starts.min()) - begun,
        "ray_end": ended - float(ends.max()),
        **{name: sum(float(shard[f"{name}_seconds"]) for shard in shards) for name in phases},
    }
