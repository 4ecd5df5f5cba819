"""Compare training through Ray Train with a plain PyTorch loop, and two workers with one.

    python benchmarks/training.py [--models tiny_maskrcnn] [--steps 60] [--rounds 3]

Every contender has the same model, images (generated, 128 pixels), augmentation, AdamW, clipping and moving average,
with 8 images per step. Each contender runs in its own process, in alternating rounds:

    loader 0|1|2  a plain loop behind a DataLoader with this number of workers
    raylabel      Ray Train with one worker, with its log and checkpoints half-way and at the end
    raylabel x2   the same images per step on two workers
    other seed    raylabel with another seed, to show the noise of the loss

The model has one thread per worker. Rates are images/s of wall-clock time after the first ten steps, so without the
start of Ray, and the best of all rounds. `ratio` is the median over rounds of the ratio to the best loader of the same
round. `wait` is the share of time waiting for images. `loss` is the mean over the last third of the steps. Memory is
the highest sum of the processes' proportional set sizes, including Ray's processes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from process_watcher import Watcher
from raylabel.dataset.synthetic.generate import generate
from raylabel.run.folder import RunFolder

CONTENDERS = ("loader 0", "loader 1", "loader 2", "raylabel", "raylabel x2", "other seed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny_maskrcnn"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(contend(args.contender, args.folder, args.models[0], args.steps)))
        return
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary), num_images=240, num_classes=12, image_size=128)
        for model in args.models:
            compare(model, temporary, args.steps, args.rounds)
    print(f"load after: {os.getloadavg()[0]:.1f}")


def compare(model: str, folder: str, steps: int, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            found[name].append(measure(name, folder, model, steps))
    best_loader = [
        max(found[name][turn]["images_per_second"] for name in CONTENDERS if name.startswith("loader"))
        for turn in range(rounds)
    ]
    print(f"\n{model}, {steps} steps of 8 images, {rounds} rounds")
    print(f"  {'':<12}{'images/s':>10}{'ratio':>8}{'wait':>8}{'loss':>8}{'MiB':>8}")
    for name, turns in found.items():
        rates = np.array([turn["images_per_second"] for turn in turns])
        ratio = float(np.median(rates / best_loader))
        wait, loss, peak = (float(np.median([turn[key] for turn in turns])) for key in ("data_wait", "loss", "mib"))
        print(f"  {name:<12}{rates.max():>10.1f}{ratio:>8.2f}{wait:>8.3f}{loss:>8.3f}{peak:>8.0f}", flush=True)


def measure(contender: str, folder: str, model: str, steps: int) -> dict[str, float]:
    """Run a contender in its own process."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH")) if part)
    arguments = ["--contender", contender, "--folder", folder, "--models", model, "--steps", str(steps)]
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    watcher = Watcher(process.pid)
    output, _ = process.communicate()
    watcher.stop()
    assert process.returncode == 0, f"{contender} failed"
    return json.loads(output.splitlines()[-1]) | {"mib": watcher.peak_bytes / 1024**2}


def contend(contender: str, folder: str, model: str, steps: int) -> dict[str, float]:
    from training_contenders import (
        figures_of,
        plain_loop,
        through_ray,
    )  # loads torch

    if contender.startswith("loader"):
        return plain_loop(folder, model, steps, 0, int(contender.split()[1]))
    with tempfile.TemporaryDirectory() as temporary:
        run = RunFolder(temporary)
        num_workers, seed = (2 if contender == "raylabel x2" else 1), int(contender == "other seed")
        through_ray(folder, model, steps, seed, num_workers, run)
        return figures_of(run, steps)


if __name__ == "__main__":
    main()
