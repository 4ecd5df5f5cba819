"""The command line. Exit codes: 0 done, 2 bad input (one line that names what and where), 1 anything else."""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from raylabel.config import CORRECTOR_KINDS, load_config
from raylabel.errors import InputError, StorageError, TrainingError
from raylabel.redaction import redacted
from raylabel.run.folder import STAGES, RunFolder, report_uri, run_folder

EXIT_BAD_INPUT = 2
_CLEAR = "\x1b[2J\x1b[H"
"""Clears a terminal, and goes to its first line."""
_LONGEST_WATCH = 86_400
"""Most seconds between two looks at a run, because `time.sleep` refuses very long times."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line, like every other bad input."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("raylabel").strip()
        raise InputError(f"{command + ': ' if command else ''}{message}. See {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit code."""
    # The current folder is on the path, so that users' `module:Class` models are found as with `python -m`.
    sys.path.insert(0, os.getcwd())
    try:
        arguments, overrides = _parse(list(sys.argv[1:] if argv is None else argv))
        arguments.command(arguments, overrides)
    except InputError as error:
        return _failed(str(error), EXIT_BAD_INPUT)
    except (StorageError, TrainingError) as error:
        return _failed(str(error), 1)
    except KeyboardInterrupt:
        # At once, because who presses again would interrupt the end of Ray's session.
        print("raylabel: stopped; committed work stays. Run the same command again to continue.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    return 0


def _failed(why: str, code: int) -> int:
    """Say as the last line of the console why the command failed, and return the exit code."""
    if "raylabel.cluster.session" in sys.modules:
        from raylabel.cluster.session import disconnect

        disconnect()
    print(f"raylabel: {why}", file=sys.stderr)
    return code


def _parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = _build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not getattr(arguments, "config", None):
        raise InputError(f"{argv[0]}: unknown argument {rest[0]}. See raylabel {argv[0]} --help.")
    return arguments, _overrides(rest)


def _overrides(rest: list[str]) -> dict[str, str]:
    """Parse `--a.b VALUE` and `--a.b=VALUE` to {"a.b": "VALUE"}."""
    found, words = {}, iter(rest)
    for word in words:
        if not word.startswith("--"):
            raise InputError(
                f"{word}: expected --key VALUE, such as --teacher.steps 2000. A run folder goes with --out, "
                "a results file with --predictions."
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise InputError(f"--{key}: needs a value")
            value = following
        found[key] = value
    return found


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="raylabel", description="Calibrated pseudo-labels for long-tailed instance segmentation.")
    parser.add_argument("--version", action="version", version=f"raylabel {version('raylabel')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, about: str, run: Callable[[argparse.Namespace, dict[str, str]], None]
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        command.set_defaults(command=run)
        return command

    demo = add("demo", "run everything on the generated long-tail set", _demo)
    demo.add_argument("--out", default="runs/demo", help="run folder (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")

    generated = add("generate", "write the generated long-tail set", _generate)
    generated.add_argument("--out", required=True, help="folder to write")
    generated.add_argument("--images", type=int, default=1200, help="images in all splits (default: %(default)s)")
    generated.add_argument(
        "--sizes",
        type=int,
        nargs=4,
        metavar=("LABELLED", "CALIBRATION", "VAL", "POOL"),
        help="images of each split, in place of --images",
    )
    generated.add_argument("--image-size", type=int, default=128, help="side in pixels (default: %(default)s)")
    generated.add_argument("--classes", type=int, default=24, help="number of classes (default: %(default)s)")
    generated.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")

    first = add("init", "write a commented config for your own data", _init)
    first.add_argument("labelled", help="LVIS or COCO JSON")
    first.add_argument("images", help="folder or URI prefix of the images that it names")
    first.add_argument("pool", help="folder, URI prefix, tars, Parquet or manifest of images without labels")
    first.add_argument("--validation", help="JSON of the validation images (default: a fraction of the labelled ones)")
    first.add_argument(
        "--calibration", help="JSON of the calibration images (default: a fraction of the labelled ones)"
    )
    first.add_argument("--out", default="my.yaml", help="file to write (default: %(default)s)")

    check = add("check", "validate config and data, say what would run, spend nothing", _check)
    _add_config(check)
    about = "read all pixels of the annotated images, and compare every pool image that may be one of them"
    check.add_argument("--thorough", action="store_true", help=about)
    check.add_argument(
        "--time",
        action="store_true",
        help="try a few steps and predictions on this machine, and say how long a run takes",
    )
    check.add_argument("--price-per-hour", type=float, metavar="P", help="say with --time what a run costs")
    plan = add("plan", "shards, bytes, hours, requests and machines that a pool of many images would take", _plan)
    _add_config(plan)
    plan.add_argument("--images", type=float, required=True, help="images of the pool, such as 1e8")
    plan.add_argument("--gpus", type=int, help="GPUs that label (default: as many as label.num_workers asks for)")
    plan.add_argument("--images-per-second", type=float, metavar="R", help="images that a worker labels per second")
    plan.add_argument(
        "--training-images-per-second", type=float, metavar="R", help="images that a worker trains on per second"
    )
    plan.add_argument("--price", type=float, help="price of a GPU for an hour")
    plan.add_argument("--patch", metavar="FILE", help="write the worker groups as a component of kustomize")
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    whole = add("run", "run all stages, skipping finished ones", _run)
    _add_config(whole)
    _add_verify(whole)
    for spec in STAGES:
        stage = spec.name
        command = add(stage, spec.about, _stage)
        command.set_defaults(stage=stage)
        reads_results = stage in ("calibrate", "evaluate")
        _add_config(command, is_optional=reads_results)
        if reads_results:
            command.add_argument("--json", action="store_true", help="print one JSON object")
            command.add_argument("--predictions", help="COCO/LVIS results JSON of any detector")
            command.add_argument("--annotations", help="ground truth of --predictions, COCO/LVIS JSON")
        if stage == "calibrate":
            command.add_argument("--corrector", help="kind of corrector, with --predictions (default: auto)")
            command.add_argument(
                "--train-annotations",
                help="what the detector of --predictions was trained on: image counts for norcal and frequency groups",
            )
            command.add_argument(
                "--no-context",
                action="store_true",
                help="with --predictions: look at scores and classes alone (faster)",
            )
        if stage == "evaluate":
            command.add_argument("--iou-type", choices=("segm", "bbox"), help="with --predictions (default: segm)")
            _add_verify(command)

    correct = add("correct", "apply a fitted corrector to a results file", _correct)
    correct.add_argument("--corrector", required=True, help="corrector.json that calibrate wrote")
    correct.add_argument("--predictions", required=True, help="COCO/LVIS results JSON")
    correct.add_argument("--annotations", help="COCO/LVIS JSON with the images, whose sizes polygons need")
    correct.add_argument("--out", required=True, help="results JSON to write")

    recalibrated = add("recalibrate", "new calibrated scores on stored labels, without a model", _recalibrate)
    recalibrated.add_argument("run", help="run folder or URI")
    recalibrated.add_argument("--corrector", required=True, help="kind of the new corrector")

    exported = add("export", "pseudo-labels for other tools", _export)
    exported.add_argument("run", help="run folder or URI")
    exported.add_argument("--format", required=True, choices=("coco", "lvis", "yolo"))
    exported.add_argument("--out", required=True, help="file (coco, lvis) or folder (yolo) to write")

    predicted = add("predict", "run a trained model over new images", _predict)
    predicted.add_argument("model", help="run (its student), or the folder of a saved model; path or URI")
    predicted.add_argument("images", help="image, folder, pattern, URI prefix, manifest, tar or Parquet")
    predicted.add_argument("--out", required=True, help="new file to write: .json (COCO results), .jsonl or .parquet")
    predicted.add_argument("--draw", metavar="FOLDER", help="new folder for pictures with masks, classes and scores")
    predicted.add_argument("--min-score", type=float, help="smallest score (default: the selection of the run)")
    predicted.add_argument("--raw", action="store_true", help="raw scores, and all predictions")
    predicted.add_argument("--teacher", action="store_true", help="the teacher of the run, not its student")
    predicted.add_argument("--ray", action="store_true", help="on Ray, however few the images are")

    state = add("status", "stages, images done, rates, time left, quarantined images, calibration so far", _status)
    state.add_argument("run", help="run folder or URI")
    state.add_argument("--json", action="store_true", help="print one JSON object")
    state.add_argument(
        "--shards", nargs="?", type=int, const=10, default=0, metavar="N", help="list the slowest shards (default: 10)"
    )
    state.add_argument("--classes", action="store_true", help="list what became of the predictions of each class")
    state.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="show it again and again until the run is done",
    )
    return parser


def _add_config(command: argparse.ArgumentParser, *, is_optional: bool = False) -> None:
    command.add_argument("config", nargs="?" if is_optional else None, help="YAML file")
    results = "; with --predictions of calibrate, the folder to write" if is_optional else ""
    command.add_argument("--out", help=f"run folder or URI (default: `out` of the config){results}")
    command.epilog = "Any setting can be given as --a.b VALUE, such as --teacher.steps 2000."


def _add_verify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--verify",
        action="store_true",
        help="compare AP with the official evaluators (slow; on a sample of the images if there are many detections)",
    )


def _load(arguments: argparse.Namespace, overrides: dict[str, str]) -> tuple[Any, RunFolder]:
    config = load_config(arguments.config, overrides)
    return config, run_folder(arguments.out or config.out)


# Each command imports its own modules, because torch and Ray take seconds that `--help` and bad input don't need.


def _demo(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.demo import run_demo
    from raylabel.report.console import format_metrics

    if arguments.seed < 0:
        raise InputError(f"--seed must be >= 0, got {arguments.seed}")
    metrics = run_demo(Path(arguments.out), arguments.seed)
    print(f"\n{format_metrics(metrics)}\n\nreport: {redacted(report_uri(run_folder(arguments.out)))}")


def _generate(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.dataset.synthetic.generate import SPLITS, generate
    from raylabel.progress import Progress

    asked = dict(zip(SPLITS, arguments.sizes, strict=True)) if arguments.sizes else None
    with Progress("generate", sum(asked.values()) if asked else arguments.images) as progress:
        sizes = generate(
            arguments.out,
            num_images=arguments.images,
            num_classes=arguments.classes,
            seed=arguments.seed,
            image_size=arguments.image_size,
            sizes=asked,
            progress=progress,
        )
    print(f"{redacted(arguments.out)}: " + ", ".join(f"{num} {name}" for name, num in sizes.items()))


def _init(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.first_config import write_first_config

    text = write_first_config(
        arguments.labelled,
        arguments.images,
        arguments.pool,
        arguments.out,
        validation=arguments.validation,
        calibration=arguments.calibration,
    )
    print(f"{text}\nwritten: {redacted(arguments.out)}\nnext: raylabel check {redacted(arguments.out)}")


def _check(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.report.console import format_check
    from raylabel.stages.check import check_run

    if arguments.price_per_hour is not None and not arguments.time:
        raise InputError("check: --price-per-hour goes with --time")
    if arguments.price_per_hour is not None and not 0 <= arguments.price_per_hour < math.inf:
        raise InputError(f"--price-per-hour must be >= 0 and finite, got {arguments.price_per_hour:g}")
    config, run = _load(arguments, overrides)
    found = check_run(config, run, thorough=arguments.thorough)
    print(format_check(found), flush=True)
    if arguments.time:
        from raylabel.stages.time_need import format_time, measure_speed, stage_seconds

        seconds = stage_seconds(config, run, found, measure_speed(config, run))
        print(format_time(seconds, price_per_hour=arguments.price_per_hour))


def _plan(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.files.committing import commit_bytes
    from raylabel.plan.run_plan import plan_run
    from raylabel.plan.worker_groups import groups_component

    plan = plan_run(
        load_config(arguments.config, overrides),
        num_images=arguments.images,
        num_gpus=arguments.gpus,
        images_per_second=arguments.images_per_second,
        training_images_per_second=arguments.training_images_per_second,
        price=arguments.price,
    )
    if arguments.patch:
        commit_bytes(arguments.patch, groups_component(plan.groups, num_images=plan.num_images).encode())
        print(f"written: {redacted(arguments.patch)}", file=sys.stderr)
    print(json.dumps(plan.to_json()) if arguments.json else plan.text())


def _run(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.report.console import format_metrics
    from raylabel.stages.run import run_pipeline

    config, run = _load(arguments, overrides)
    artifacts = run_pipeline(config, run, verify=arguments.verify)
    print(f"\n{format_metrics(artifacts['evaluate']['metrics'])}\n\nreport: {redacted(report_uri(run))}")


def _stage(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    if arguments.config is None:
        {"calibrate": _calibrate_results, "evaluate": _evaluate_results}[arguments.stage](arguments)
        return
    if any(
        getattr(arguments, name, None)
        for name in ("predictions", "annotations", "iou_type", "train_annotations", "no_context")
    ):
        raise InputError(f"{arguments.stage}: give either a config or --predictions and --annotations, not both")
    if getattr(arguments, "corrector", None):
        overrides = overrides | {"calibration.corrector": arguments.corrector}
    from raylabel.stages.run import run_one

    is_json = getattr(arguments, "json", False)
    config, run = _load(arguments, overrides)

    def work() -> dict[str, Any]:
        return run_one(arguments.stage, config, run, verify=getattr(arguments, "verify", False))

    artifact = _quietly(work) if is_json else work()
    if is_json:
        print(json.dumps(artifact))
    elif arguments.stage == "evaluate":
        from raylabel.report.console import format_metrics

        print(format_metrics(artifact["metrics"]))


def _quietly(work: Callable[[], Any]) -> Any:
    """Run `work` with its output on stderr, because standard output belongs to the JSON object."""
    with contextlib.redirect_stdout(sys.stderr):
        return work()


def _calibrate_results(arguments: argparse.Namespace) -> None:
    from raylabel.external import calibrate_results
    from raylabel.report.console import format_summary

    _require(arguments, "predictions", "annotations", "out")
    summary = calibrate_results(
        arguments.predictions,
        arguments.annotations,
        arguments.out,
        train_annotations=arguments.train_annotations,
        corrector=_kind(arguments.corrector or "auto"),
        with_context=not arguments.no_context,
    )
    print(json.dumps(summary) if arguments.json else f"{format_summary(summary)}\nwritten: {redacted(arguments.out)}")


def _evaluate_results(arguments: argparse.Namespace) -> None:
    from raylabel.evaluation.checked_results import check_results
    from raylabel.evaluation.official import verify_results
    from raylabel.report.console import format_figures, format_misses, format_verification

    _require(arguments, "predictions", "annotations")
    if arguments.out:
        raise InputError("evaluate: --out goes with a config only. The figures of a results file are printed.")
    iou_type: Any = arguments.iou_type or "segm"
    checked = check_results(
        arguments.annotations, arguments.predictions, iou_type=iou_type, has_sample=arguments.verify
    )
    figures = checked.figures()
    verification = verify_results(checked, figures).to_json() if arguments.verify else None
    misses = format_misses(checked.num_images_without_detection, checked.num_images)
    for line in misses if arguments.json else ():
        print(line, file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures | ({"verification": verification} if verification else {})))
    else:
        print(format_figures(figures, iou_type=iou_type))
        for line in misses:
            print(line)
        print(format_verification(verification))


def _require(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse a command on a results file that lacks a required option."""
    missing = [f"--{name}" for name in names if not getattr(arguments, name)]
    if missing:
        *others, last = (f"--{name}" for name in names)
        needed = f"{', '.join(others)} and {last}"
        raise InputError(f"{arguments.stage}: needs a config, or {needed}; missing {missing[0]}")


def _kind(text: str) -> str:
    if text not in CORRECTOR_KINDS:
        raise InputError(f"--corrector must be one of {', '.join(CORRECTOR_KINDS)}, got {text}")
    return text


def _correct(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.external import correct_results

    summary = correct_results(
        arguments.corrector, arguments.predictions, arguments.out, annotations=arguments.annotations
    )
    print(f"{redacted(arguments.out)}: " + ", ".join(f"{name} {value}" for name, value in summary.items()))


def _recalibrate(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.stages.label import recalibrate

    recalibrate(run_folder(arguments.run), _kind(arguments.corrector))


def _export(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.export import export_labels

    summary = export_labels(arguments.run, arguments.format, arguments.out)
    print(f"{redacted(arguments.out)}: " + ", ".join(f"{value} {name}" for name, value in summary.items()))


def _predict(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.deploy.predict import predict_files

    counts = predict_files(
        arguments.model,
        arguments.images,
        arguments.out,
        draw=arguments.draw,
        min_score=arguments.min_score,
        raw=arguments.raw,
        teacher=arguments.teacher,
        use_ray=arguments.ray,
    )
    print(f"{redacted(arguments.out)}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))


def _status(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from raylabel.report.console import format_status
    from raylabel.stages.status import run_status

    if arguments.shards < 0:
        raise InputError(f"--shards must be >= 0, got {arguments.shards}")
    if arguments.watch is not None and not 0 < arguments.watch <= _LONGEST_WATCH:
        raise InputError(f"--watch must be > 0 and at most {_LONGEST_WATCH} seconds, got {arguments.watch:g}")

    def show() -> bool:
        """Print the status, and tell whether the run is done."""
        status = run_status(run_folder(arguments.run), num_slowest=arguments.shards, with_classes=arguments.classes)
        clears = arguments.watch is not None and not arguments.json and sys.stdout.isatty()
        print(_CLEAR if clears else "", end="")
        if arguments.watch is not None and not arguments.json:
            print(time.strftime("%H:%M:%S"))
        print(json.dumps(status) if arguments.json else format_status(status), flush=True)
        return all(stage["state"] == "finished" for stage in status["stages"])

    is_done = show()
    with contextlib.suppress(KeyboardInterrupt):  # the usual end of watching
        while arguments.watch is not None and not is_done:
            time.sleep(arguments.watch)
            is_done = show()


if __name__ == "__main__":
    raise SystemExit(main())
