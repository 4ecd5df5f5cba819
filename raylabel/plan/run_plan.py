"""The plan of a run: shards, bytes, requests, hours, memory and machines."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from raylabel.config import Config, StudentConfig, TeacherConfig
from raylabel.errors import InputError
from raylabel.plan.figures import FIGURES, value
from raylabel.plan.worker_groups import PodPlan, worker_groups
from raylabel.run.labels.disk_need import size_text

LEAST, MOST = 1e-6, 1e9
"""Range of rates, prices and resources. Outside of it a plan has numbers that are not finite."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A part of a run.

    Attributes:
        name: the stage, or the part of it.
        hours: how long it takes. None if nothing is known of the model's speed.
        gpu_hours: hours times the GPUs that it holds.
        note: what the hours are of.
        is_optional: whether a run ends without it.
    """

    name: str
    hours: float | None
    gpu_hours: float | None
    note: str
    is_optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would take.

    Attributes:
        num_images: images of the pool.
        num_shards: label files.
        shard_size: images per file.
        num_workers: labelling workers.
        label_bytes: size of the label files.
        stages: hours, part by part.
        requests: listings, reads and writes of the object store. A read may be several HTTP requests.
        driver_mib: memory of the driver above what it takes for a few images.
        groups: worker groups of k8s/ that suffice.
        price: of all GPU hours that are known, in the currency of `--price`. None without it.
        flags: settings of the config that fit the groups.
    """

    num_images: int
    num_shards: int
    shard_size: int
    num_workers: int
    label_bytes: float
    stages: list[StagePlan]
    requests: dict[str, int]
    driver_mib: float
    groups: list[PodPlan]
    price: float | None
    flags: dict[str, int] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Hours of the run's stages whose hours are known, one after the other."""
        return sum(stage.hours or 0.0 for stage in self.stages if not stage.is_optional)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data, with the figures that it is made of."""
        origins = {name: {"about": one.about, "origin": f"docs/{one.origin}"} for name, one in FIGURES.items()}
        return asdict(self) | {"hours": self.hours, "figures": origins}

    def text(self) -> str:
        """Format the plan for people. The last lines say where its figures come from."""
        lines = [
            f"{self.num_images:,} images in {self.num_shards:,} shards of {self.shard_size}, "
            f"{self.num_workers} labelling workers",
            f"labels     {size_text(self.label_bytes)}",
            f"driver     {self.driver_mib:,.0f} MiB more than for a few images",
            "requests   " + ", ".join(f"{count:,} {name}" for name, count in self.requests.items()),
            "",
            f"{'stage':<28}{'hours':>10}{'GPU hours':>12}  of",
        ]
        for one in self.stages:
            lines.append(f"{one.name:<28}{_hours(one.hours):>10}{_hours(one.gpu_hours):>12}  {one.note}")
        lines.append(f"{'known hours, in all':<28}{_hours(self.hours):>10}")
        if any(one.hours is None for one in self.stages):
            lines.append("To know all: --images-per-second and --training-images-per-second, per worker")
        if self.price is not None:
            lines.append(f"{'price of known GPU hours':<28}{self.price:>10,.2f}")
        lines += ["", f"{'worker group':<14}{'pods':>6}{'CPUs':>6}{'GPUs':>6}{'GiB':>6}  per pod"]
        lines += [f"{one.group:<14}{one.pods:>6}{one.cpus:>6}{one.gpus:>6}{one.memory_gib:>6}" for one in self.groups]
        if self.flags:
            lines.append("settings: " + " ".join(f"--{name} {number}" for name, number in self.flags.items()))
        lines += ["", "Computed, not measured, from figures of two CPU cores. Evaluation and retries are left out."]
        for origin in dict.fromkeys(one.origin for one in FIGURES.values()):
            lines.append(f"docs/{origin}: " + "; ".join(one.about for one in FIGURES.values() if one.origin == origin))
        return "\n".join(lines)


def plan_run(
    config: Config,
    *,
    num_images: float,
    num_gpus: int | None = None,
    images_per_second: float | None = None,
    training_images_per_second: float | None = None,
    price: float | None = None,
) -> Plan:
    """Plan a run. More images never take fewer hours, bytes or requests, and more GPUs never take more hours.

    Args:
        config: the run's config.
        num_images: images of the pool.
        num_gpus: GPUs that label. Without it, as many as `label.num_workers` asks for.
        images_per_second: images that one labelling worker labels per second. Without it, only the driver's part of
            `label` is known.
        training_images_per_second: images that one training worker learns from per second. Without it, the hours of
            the trainings are not known.
        price: of one GPU for one hour, in any currency.

    Raises:
        InputError: a number is out of its range, or GPUs are planned for a config that labels without.
    """
    _check_numbers(num_images, num_gpus, images_per_second, training_images_per_second, price)
    _check_resources(config)
    label, images = config.label, int(num_images)
    if num_gpus is not None and not label.num_gpus:
        raise InputError(f"--gpus: label.num_gpus must be above 0, got 0. Set it, or leave out --gpus {num_gpus}.")
    rounds, shards = config.student.rounds, math.ceil(images / label.shard_size)
    asked = 1 if label.num_workers == "auto" else label.num_workers
    gpus = math.ceil(asked * label.num_gpus) if num_gpus is None else num_gpus
    workers = max(1, int(gpus / label.num_gpus + 1e-6)) if label.num_gpus else asked
    groups = worker_groups(config, gpus, workers)
    cpus = sum(one.pods * one.cpus for one in groups)
    seconds = {name: _behind(name, shards, cpus) * rounds for name in ("survey", "index", "corrector")}
    listing = images * value("listing")
    driver = shards / value("driver_shards") * rounds
    labelling = None if images_per_second is None else max(driver, rounds * images / (images_per_second * workers))
    batch = config.student.labelled_per_batch + config.student.unlabelled_per_batch
    students = rounds + config.student.supervised_baseline
    stages = [
        _stage("list the pool", listing, 0, "the driver; a bucket's listing takes its requests' time"),
        _training(
            "teacher",
            config.teacher,
            config.teacher.batch_size,
            1 + config.calibration.folds,
            training_images_per_second,
        ),
        _stage(
            "label",
            labelling,
            gpus,
            f"{workers} workers{_times(rounds, 'rounds')}; the driver alone {driver / 3600:.3g} hours",
        ),
        _stage("totals, selection, drift", seconds["survey"], 0, f"tasks on {cpus} CPUs"),
        _stage("distill: the pool's index", seconds["index"], 0, f"tasks on {cpus} CPUs"),
        _training("distill: trainings", config.student, batch, students, training_images_per_second),
        _stage("another corrector, later", seconds["corrector"], 0, f"tasks on {cpus} CPUs", is_optional=True),
    ]
    per_image = value("bytes_per_instance") * min(value("instances_per_image"), label.max_per_image)
    return Plan(
        num_images=images,
        num_shards=shards,
        shard_size=label.shard_size,
        num_workers=workers,
        label_bytes=rounds * images * per_image,
        stages=stages,
        requests={
            "listings": math.ceil(images / value("keys_per_request")),
            "reads of images": rounds * images,
            "writes of shards": rounds * shards,
            "reads of shards": int(rounds * shards * (value("survey_reads") + value("index_reads"))),
        },
        driver_mib=value("driver_mib") + images * value("driver_mib_per_image"),
        groups=groups,
        price=None if price is None else price * sum(stage.gpu_hours or 0.0 for stage in stages),
        flags={"label.num_workers": workers} if label.num_gpus and workers != label.num_workers else {},
    )


def _check_numbers(num_images: float, num_gpus: int | None, *others: float | None) -> None:
    if not (1 <= num_images <= 1e15 and num_images == int(num_images)):
        raise InputError(f"--images must be a whole number from 1 to 10^15, got {num_images:g}")
    if num_gpus is not None and num_gpus < 1:
        raise InputError(f"--gpus must be >= 1, got {num_gpus}")
    names = ("--images-per-second", "--training-images-per-second", "--price")
    for name, number in zip(names, others, strict=True):
        if number is not None and not (LEAST <= number <= MOST):
            raise InputError(f"{name} must be from {LEAST:g} to {MOST:g}, got {number:g}")


def _check_resources(config: Config) -> None:
    """Refuse what no machine has, because its plan would have no finite number."""
    per_worker = ("cpus_per_worker", "gpus_per_worker", "memory_gb_per_worker")
    parts = {"label": ("num_cpus", "num_gpus", "memory_gb"), "teacher": per_worker, "student": per_worker}
    for part, names in parts.items():
        for name in names:
            number = getattr(getattr(config, part), name)
            if number and not (LEAST <= number <= MOST):
                raise InputError(f"{part}.{name} must be 0 or from {LEAST:g} to {MOST:g}, got {number:g}")


def _behind(name: str, shards: int, cpus: int) -> float:
    """Return the seconds of the tasks behind the last shard: their CPUs or the driver, whichever takes longer."""
    return max(shards * value(f"{name}_cpu") / cpus, shards * value(f"{name}_driver"))


def _stage(name: str, seconds: float | None, gpus: float, note: str, *, is_optional: bool = False) -> StagePlan:
    hours = None if seconds is None else seconds / 3600
    gpu_hours = None if hours is None else hours * gpus
    return StagePlan(name=name, hours=hours, gpu_hours=gpu_hours, note=note, is_optional=is_optional)


def _training(
    name: str, settings: TeacherConfig | StudentConfig, batch: int, num: int, rate: float | None
) -> StagePlan:
    steps, workers = settings.steps * num, settings.num_workers
    seconds = steps * batch / (rate * workers) if rate else (None if steps else 0.0)
    return _stage(
        name,
        seconds,
        workers * settings.gpus_per_worker,
        f"{steps:,} steps of {batch}, {workers} workers, {num} models",
    )


def _times(num: int, what: str) -> str:
    return f", {num} {what}" if num > 1 else ""


def _hours(hours: float | None) -> str:
    return "not known" if hours is None else f"{hours:,.3g}" if hours < 100 else f"{hours:,.0f}"
