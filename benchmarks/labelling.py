"""Compare the label stage with plain loops and with the limit of the machine, and measure it beside an accelerator.

    PYTHONPATH=tests/support python benchmarks/labelling.py [--parts throughput overlap] [--images FOLDER]

`throughput` gives every contender the same images, model and Parquet rows (RLE, soft vectors, context). Each runs in
its own process, in alternating rounds:

    loop        one image after another
    loader 1|2  a DataLoader with 1 or 2 workers in front of the model
    raylabel    the label stage with its default settings; the start of Ray is printed, but not counted
    ceiling     CPU-seconds of decoding, model and rows, in one single-threaded process per core

Rates are images/s of wall-clock time while all workers are busy. `CPU s` are CPU-seconds per image of all processes in
the same time; other load on the machine disturbs them less. Memory is the highest sum of the processes' proportional
set sizes.

`overlap` uses a segmenter that waits 15 ms per image without CPU, on 1 and on 8 workers, with threads and with tasks.
The first shard of each worker is not counted, because Ray starts the decoding processes in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from contenders import CORES, MAX_PIXELS, SHARD, run_ceiling, run_loader, run_loop, run_raylabel, to_tensor
from fakes import WaitingSegmenter
from prepared import prepared_run
from process_watcher import Watcher
from raylabel.cluster.decoding import Lookahead, ThreadDecoder
from raylabel.config import load_config
from raylabel.dataset.image_source import ImageSource
from raylabel.dataset.images import read_image
from raylabel.dataset.synthetic.generate import generate
from raylabel.files.moving import remove
from raylabel.models.saved import save_segmenter
from raylabel.run.folder import RunFolder
from untrained import build

MODELS = {"tiny": "tiny_maskrcnn", "mobilenet": "maskrcnn_mobilenet_v3_large_fpn"}
SETTINGS = f"{{shard_size: {SHARD}, score_threshold: 0.0, max_per_image: 30}}"
"""30 objects per image, as a trained model finds, because score thresholds mean nothing for untrained models."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["throughput", "overlap"])
    parser.add_argument("--images", help="folder of images; generated images by default")
    parser.add_argument("--num-images", type=int, help="number of images, repeated if there are fewer; all by default")
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
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "throughput" in args.parts:
            source = Path(args.images) if args.images else generated_set(folder) / "pool"
            uris = images_of(source, args.num_images)
            for model in args.models:
                throughput(folder, uris, model, args.rounds)
        if "overlap" in args.parts:
            overlap(folder, args.rounds)


def measure(*arguments: str) -> dict[str, float]:
    """Run a contender in its own process."""
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    watcher = Watcher(process.pid)
    output, _ = process.communicate()
    watcher.stop()
    assert process.returncode == 0, output
    # The last line that is a result, because Ray may print after the contender.
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
        remove(run.path("labels"))
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
    """Run `CORES` processes at once. The rate is what their CPU-seconds allow on `CORES` cores."""
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
    uris = images_of(generated_set(folder) / "pool", None)
    decode = ThreadDecoder(MAX_PIXELS, Lookahead(max_images=48, max_pixels=1 << 25))
    start = time.monotonic()
    for _ in decode([ImageSource(uri) for uri in uris]):
        pass
    decode_rate, wait_rate = len(uris) / (time.monotonic() - start), 1 / WaitingSegmenter.SECONDS
    print(
        f"\noverlap: decoding alone {decode_rate:.0f} images/s, 15 ms per image is {wait_rate:.1f} images/s per worker"
    )
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
                f"{decoding}: 1 worker {alone:.1f} images/s, {alone / possible:.2f} of the limit; "
                f"8 workers {eight:.1f}, {eight / 8 / alone:.2f} of linear; CPU s/image {rates[1]['cpu_an_image']:.4f} "
                f"and {rates[8]['cpu_an_image']:.4f}"
            )


def prepare(folder: Path, uris: list[str], model: str, settings: str) -> RunFolder:
    """Prepare a run that is ready to label the given images. Images may repeat."""
    pool = folder / "pool.jsonl"
    pool.write_text("".join(json.dumps({"image_id": f"{n:06d}", "uri": uri}) + "\n" for n, uri in enumerate(uris)))
    config_path = folder / "config.yaml"
    generated = generated_set(folder)
    config_path.write_text(
        f"data: {{labelled: {generated}/labelled.json, images: {generated}/images, pool: {pool},\n"
        f"       calibration: {generated}/calibration.json, validation: {generated}/val.json, allowed_roots: [/]}}\n"
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


def images_of(folder: Path, num_images: int | None) -> list[str]:
    """List `num_images` images of a folder, repeated if it has fewer. None lists all images once."""
    uris = sorted(str(path.absolute()) for path in folder.iterdir())
    return [uris[row % len(uris)] for row in range(num_images or len(uris))]


def generated_set(folder: Path) -> Path:
    """Return the folder of the generated set, generating it on the first call."""
    target = folder / "generated"
    if not target.exists():
        generate(target, num_images=240, num_classes=24, image_size=128)
    return target


if __name__ == "__main__":
    main()
