"""Labelling: raylabel's stage against loops, against what the machine can do, and beside an accelerator; and masks.

    PYTHONPATH=tests python benchmarks/labelling.py [--parts masks throughput overlap] [--images FOLDER]

`throughput`: the same images, model and Parquet rows (RLE, soft vectors, context) in every contender, each in a process
of its own, in alternating rounds:

    loop        one image after another
    loader 1|2  a DataLoader of 1 or 2 workers in front of the model
    raylabel    the label stage with its default settings; Ray's start is not counted, but told
    ceiling     CPU-seconds of decoding, model and rows, in as many single-threaded processes as there are cores

Rates are images/s of wall-clock time while all workers are at work; `CPU s` are CPU-seconds of all processes together
by image in the same time, a figure that others on the machine disturb less; memory is the highest sum of the
processes' proportional set sizes.

`overlap`: a segmenter that waits 15 ms an image without any CPU, on 1 and on 8 workers, by threads and by tasks. The
first shard of each worker, in which Ray starts the decoding processes, is not counted.
`masks`: encoding by box against pasting and pycocotools, and post-processing against the model's forward pass.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from fakes import WaitingSegmenter
from numpy.typing import NDArray
from prepared import prepared_run
from pycocotools import mask as coco_mask
from torch import nn

from raylabel.box_encoding import encode_boxes
from raylabel.config import Config, load_config, load_run_config
from raylabel.dataset.images import read_image
from raylabel.dataset.synthetic import generate
from raylabel.instances import Instances
from raylabel.label_rows import InstanceRows
from raylabel.labels import committed_shards
from raylabel.models import build_segmenter
from raylabel.models.saved import load_segmenter, save_segmenter
from raylabel.models.soft_maskrcnn import _instances
from raylabel.pipeline.batches import batches_by_size
from raylabel.pipeline.decoding import Lookahead, ThreadDecoder
from raylabel.schema import LABELS
from raylabel.storage import RunFolder, commit_table, read_table_metadata, remove

MODELS = {"tiny": "tiny_maskrcnn", "mobilenet": "maskrcnn_mobilenet_v3_large_fpn"}
CORES = os.cpu_count() or 1
MAX_PIXELS = 50_000_000
SHARD = 16
SETTINGS = f"{{shard_size: {SHARD}, score_threshold: 0.0, max_per_image: 30}}"
"""Thresholds mean nothing to untrained models; 30 objects an image is what a trained one finds."""


# What the contenders share


def rows_of(found: Sequence[Instances], uris: Sequence[str], top_k: int) -> pa.Table:
    """The stage's rows, with raw scores as calibrated ones."""
    rows = InstanceRows(top_k=top_k)
    for one in found:
        rows.append(one)
    heights, widths = np.array([one.image_size_hw for one in found], np.int32).T
    columns = {
        "image_id": list(uris),
        "uri": list(uris),
        "height": heights,
        "width": widths,
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
    """Takes instances of image after image and writes a file for each SHARD of them."""

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


# Contenders: each prints {"start": unix seconds, "end": ..., "images": ...} of what counts


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
    """One of CORES processes at the same time: its part of the images, on one thread."""
    torch.set_num_threads(1)
    config = load_run_config(run)
    predict, output = predictor(run, config), Output(folder, config.label.top_k)
    predict([to_tensor(read_image(uris[0], max_pixels=MAX_PIXELS))])
    decoded = ((row, read_image(uri, max_pixels=MAX_PIXELS)) for row, uri in enumerate(uris))
    cpu, start = time.process_time(), time.time()
    for rows, images in batches_by_size(decoded, max_images=config.label.batch_size, max_pixels=1 << 24):
        for row, found in zip(rows, predict([to_tensor(image) for image in images]), strict=True):  # type: ignore[arg-type]
            output.add(uris[row], found)
    output.flush()
    return {"start": start, "end": time.time(), "images": len(uris), "cpu": time.process_time() - cpu}


def run_raylabel(run: RunFolder, num_workers: int, *, is_warm_only: bool) -> dict[str, float]:
    """The stage; what counts is the time in which all workers are at work, as the shards' own files tell it."""
    import ray

    from raylabel.pipeline import label

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


# Measuring


class Watcher:
    """Samples CPU-seconds and memory of a process and all below it, from Linux's /proc."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[tuple[float, float]] = []
        self.peak_bytes = 0
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        number = 0
        while not self._stop.wait(0.25):
            tree = self._tree()
            self._cpu |= tree
            self.samples.append((time.time(), sum(self._cpu.values())))
            if number % 4 == 0:
                self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, tree)))
            number += 1

    def _tree(self) -> dict[int, float]:
        """CPU-seconds of each process."""
        parents, seconds = {}, {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            pid = int(path.parent.name)
            parents[pid] = int(fields[1])
            seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        tree, added = set(), {self._pid} & parents.keys()
        while added:
            tree |= added
            added = {pid for pid, parent in parents.items() if parent in added}
        return {pid: seconds[pid] for pid in tree}

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_between(self, start: float, end: float) -> float:
        times, seconds = zip(*self.samples, strict=True)
        return float(np.interp(end, times, seconds) - np.interp(start, times, seconds))


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure(*arguments: str) -> dict[str, float]:
    """Run a contender in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    watcher = Watcher(process.pid)
    output, _ = process.communicate()
    watcher.stop()
    assert process.returncode == 0, output
    # Ray may have its say after the contender.
    result = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith('{"start"')))
    result["rate"] = result["images"] / (result["end"] - result["start"])
    result["cpu_an_image"] = watcher.cpu_between(result["start"], result["end"]) / result["images"]
    result["peak_mb"] = watcher.peak_bytes / 2**20
    return result


def throughput(folder: Path, uris: list[str], model: str, rounds: int) -> None:
    run = prepare(folder, uris, MODELS[model], f"label: {SETTINGS}")
    common = ["--run", run.uri, "--uris", str(folder / "uris.json")]
    (folder / "uris.json").write_text(json.dumps(uris))
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name in ("loop", "loader 1", "loader 2"):
            found.setdefault(name, []).append(measure("--contender", name, *common))
        reset(run)
        found.setdefault("raylabel", []).append(measure("--contender", "raylabel", "--workers", str(CORES), *common))
        found.setdefault("ceiling", []).append(ceiling(common))
    print(f"\n{model}: {len(uris)} images, {rounds} rounds")
    print(f"{'':<10}{'images/s':>10}{'CPU s/image':>13}{'peak MiB':>10}   rounds")
    for name, results in found.items():
        rate, cpu, peak = (np.median([one[key] for one in results]) for key in ("rate", "cpu_an_image", "peak_mb"))
        each = " ".join(f"{one['rate']:.2f}" for one in results)
        print(f"{name:<10}{rate:10.2f}{cpu:13.3f}{peak:10.0f}   {each}")
    ours = np.array([one["rate"] for one in found["raylabel"]])
    for name, others in (
        ("best loader", np.maximum(*([one["rate"] for one in found[f"loader {num}"]] for num in (1, 2)))),
        ("loop", np.array([one["rate"] for one in found["loop"]])),
        ("ceiling", np.array([one["rate"] for one in found["ceiling"]])),
    ):
        print(f"raylabel / {name}: {np.median(ours / others):.2f} (rounds {np.round(ours / others, 2).tolist()})")
    spent, bare = (np.median([one["cpu_an_image"] for one in found[name]]) for name in ("raylabel", "ceiling"))
    print(f"CPU seconds of the ceiling / of raylabel: {bare / spent:.2f}")
    last = found["raylabel"][-1]
    phases = ", ".join(f"{name} {last[name]:.1f}" for name in ("read", "predict", "encode", "write"))
    print(f"Ray's start {last['ray_start']:.1f} s, end of the stage {last['ray_end']:.1f} s; worker seconds: {phases}")


def ceiling(common: list[str]) -> dict[str, float]:
    """CORES processes at once; the rate is what their CPU-seconds would allow on CORES cores."""
    results: list[dict[str, float]] = []

    def one(part: int) -> None:
        results.append(measure("--contender", "ceiling", "--part", str(part), *common))

    threads = [threading.Thread(target=one, args=(part,)) for part in range(CORES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu_an_image = sum(one["cpu"] for one in results) / sum(one["images"] for one in results)
    peak = sum(one["peak_mb"] for one in results)
    return {"rate": CORES / cpu_an_image, "cpu_an_image": cpu_an_image, "peak_mb": peak}


def overlap(folder: Path, rounds: int) -> None:
    uris = sorted(str(path) for path in (folder / "generated" / "pool").iterdir())
    decode = ThreadDecoder(partial(read_image, max_pixels=MAX_PIXELS), Lookahead(max_images=48, max_pixels=1 << 25))
    start = time.monotonic()
    for _ in decode(uris):
        pass
    decode_rate, wait_rate = len(uris) / (time.monotonic() - start), 1 / WaitingSegmenter.SECONDS
    print(f"\noverlap: decoding alone {decode_rate:.0f} images/s, 15 ms an image is {wait_rate:.1f} images/s a worker")
    for decoding in ("threads", "tasks"):
        for _ in range(rounds):
            rates = {}
            for num_workers in (1, 8):
                settings = f"{{shard_size: 256, num_workers: {num_workers}, num_cpus: 0.1, decoding: {decoding}}}"
                many = [uris[row % len(uris)] for row in range(256 * 4 * num_workers)]
                run = prepare(folder, many, "fakes:WaitingSegmenter", f"label: {settings}")
                rates[num_workers] = measure(
                    "--contender", "raylabel", "--warm-only", "--workers", str(num_workers), "--run", run.uri
                )
            alone, eight = rates[1]["rate"], rates[8]["rate"]
            possible = min(decode_rate, wait_rate)
            print(
                f"{decoding}: 1 worker {alone:.1f} images/s, {alone / possible:.2f} of what is possible; "
                f"8 workers {eight:.1f}, {eight / 8 / alone:.2f} of linear; CPU s/image {rates[1]['cpu_an_image']:.4f} "
                f"and {rates[8]['cpu_an_image']:.4f}"
            )


def masks() -> None:
    torch.set_num_threads(1)
    print(
        f"\n{'side of box':<14}{'pasted, pycocotools':>20}{'by box':>12}{'ratio':>8}   (ms for 100 masks in 640 x 480)"
    )
    rng = np.random.default_rng(0)
    for side in (32, 64, 100, 150, 200):
        boxes, corners = [], []
        for _ in range(100):
            height, width = np.minimum(rng.integers(side // 2, side * 3 // 2, 2), (480, 640)).tolist()
            corners.append((int(rng.integers(481 - height)), int(rng.integers(641 - width))))
            blob = torch.tensor(rng.random((1, 1, 6, 6)), dtype=torch.float32)
            soft = nn.functional.interpolate(blob, size=(height, width), mode="bicubic")[0, 0].numpy()
            y, x = np.mgrid[:height, :width]
            boxes.append(soft * 0.6 + 1 - (2 * y / height - 1) ** 2 - (2 * x / width - 1) ** 2 > 0.5)

        def pasted(boxes: list[NDArray[np.bool_]] = boxes, corners: list[tuple[int, int]] = corners) -> list[Any]:
            found = []
            for box, (top, left) in zip(boxes, corners, strict=True):
                image = np.zeros((480, 640), np.uint8, order="F")
                image[top : top + box.shape[0], left : left + box.shape[1]] = box
                found.append(coco_mask.encode(image))
            return found

        assert pasted() == encode_boxes(boxes, corners, (480, 640))
        slow, fast = alternating(pasted, lambda b=boxes, c=corners: encode_boxes(b, c, (480, 640)))
        print(f"{side:<14}{1000 * slow:20.2f}{1000 * fast:12.2f}{slow / fast:8.1f}")
    segmenter = build("maskrcnn_mobilenet_v3_large_fpn", 80, [torch.rand(3, 480, 640) for _ in range(2)])
    image = torch.rand(1, 3, 480, 640)
    found: list[Any] = []

    def forward() -> None:
        with torch.inference_mode():
            segmenter.eval()
            batch, features = segmenter._features(list(image))
            proposals, _ = segmenter.rpn(batch, features)
            found[:] = segmenter.roi_heads.detect(
                features, proposals, batch.image_sizes, score_threshold=0.0, max_per_image=100
            )

    forward()
    ahead, after = alternating(forward, lambda: _instances(found[0], (480, 640), (480, 640)), repeats=4)
    instances = _instances(found[0], (480, 640), (480, 640))
    print(
        f"MobileNet: forward {1000 * ahead:.0f} ms, post-processing of {len(instances)} instances "
        f"(mean {instances.mask_areas.mean():.0f} pixels) {1000 * after:.1f} ms, {after / ahead:.3f} of it"
    )


def alternating(first: Callable[[], Any], second: Callable[[], Any], repeats: int = 15) -> tuple[float, float]:
    """Shortest CPU-seconds of each, in turns."""
    best = [np.inf, np.inf]
    for _ in range(repeats):
        for place, work in enumerate((first, second)):
            start = time.process_time()
            work()
            best[place] = min(best[place], time.process_time() - start)
    return best[0], best[1]


# Preparing


def build(model: str, num_classes: int, images: list[torch.Tensor]) -> Any:
    """A model at random whose norms fit its activations, so that its numbers are of usual size."""
    torch.manual_seed(0)
    segmenter: Any = build_segmenter(model, num_classes=num_classes)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    segmenter.train()
    with torch.no_grad():
        for image in images:
            segmenter.backbone(segmenter.transform([image])[0].tensors)
    return segmenter.eval()


def prepare(folder: Path, uris: list[str], model: str, settings: str) -> RunFolder:
    """A run that is ready to label the given images, some of them perhaps several times."""
    if not (folder / "generated").exists():
        generate(folder / "generated", num_images=240, num_classes=24, image_size=128)
    pool = folder / "pool.jsonl"
    pool.write_text("".join(json.dumps({"image_id": f"{n:06d}", "uri": uri}) + "\n" for n, uri in enumerate(uris)))
    config_path = folder / "config.yaml"
    generated = folder / "generated"
    config_path.write_text(
        f"data: {{labelled: {generated}/labelled.json, images: {generated}/images, pool: {pool},\n"
        f"       calibration: {generated}/calibration.json, validation: {generated}/val.json}}\n"
        f'teacher: {{model: "{model}"}}\nstudent: {{model: "{model}"}}\n{settings}\n'
    )
    config = load_config(config_path)
    target = folder / "run"
    remove(str(target))
    run = prepared_run(config, target)
    if not model.startswith("fakes:"):
        sample = [to_tensor(read_image(uri, max_pixels=MAX_PIXELS)) for uri in uris[:8]]
        save_segmenter(build(model, 24, sample), run.path("teacher"), {"model": model})
    return run


def reset(run: RunFolder) -> None:
    remove(run.path("labels"))


def contend(args: argparse.Namespace) -> None:
    run = RunFolder(args.run)
    with tempfile.TemporaryDirectory() as out:
        if args.contender == "raylabel":
            result = run_raylabel(run, args.workers, is_warm_only=args.warm_only)
        else:
            uris: list[str] = json.loads(Path(args.uris).read_text())
            if args.contender == "loop":
                result = run_loop(run, uris, Path(out))
            elif args.contender == "ceiling":
                result = run_ceiling(run, uris[args.part :: CORES], Path(out))
            else:
                result = run_loader(run, uris, Path(out), int(args.contender.split()[1]))
    print(json.dumps(result))


def pool_images(args: argparse.Namespace, folder: Path) -> Iterator[str]:
    generate_into = folder / "generated"
    if not generate_into.exists():
        generate(generate_into, num_images=240, num_classes=24, image_size=128)
    source = Path(args.images) if args.images else generate_into / "pool"
    paths = sorted(str(path.absolute()) for path in source.iterdir())
    return (paths[row % len(paths)] for row in range(args.num_images or len(paths)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["masks", "throughput", "overlap"])
    parser.add_argument("--images", help="folder of images; the generated ones where not given")
    parser.add_argument("--num-images", type=int, help="so many, taken again and again; all where not given")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    for hidden in ("--contender", "--run", "--uris"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--workers", "--part"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--warm-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        contend(args)
        return
    if "masks" in args.parts:
        masks()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "throughput" in args.parts:
            uris = list(pool_images(args, folder))
            for model in args.models:
                throughput(folder, uris, model, args.rounds)
        if "overlap" in args.parts:
            list(pool_images(replace_images(args), folder))
            overlap(folder, args.rounds)


def replace_images(args: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "images": None, "num_images": None})


if __name__ == "__main__":
    main()
