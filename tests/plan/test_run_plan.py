"""The plan of a run: more never costs less, every figure is of docs/, and the worker groups hold the workers."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest_schemas import validate
from raylabel.cli import main
from raylabel.cluster.capacity import READER_GB
from raylabel.config import Config, load_config
from raylabel.errors import InputError
from raylabel.plan.figures import FIGURES, value
from raylabel.plan.run_plan import Plan, plan_run
from raylabel.plan.worker_groups import CPU_GROUP_CPUS, CPU_GROUP_PODS, GROUPS, groups_component
from rendered import K8S, REPOSITORY, cluster_spec, ray_object, render, workers

LVIS = load_config(REPOSITORY / "configs" / "lvis_maskrcnn_r50.yaml")
DEMO = load_config(REPOSITORY / "configs" / "demo.yaml")


def planned(config: Config, num_images: int, num_gpus: int | None, rate: float | None) -> Plan:
    return plan_run(
        config, num_images=num_images, num_gpus=num_gpus, images_per_second=rate, training_images_per_second=4, price=2
    )


numbers = st.integers(1, 10**9)
gpus = st.integers(1, 5000)
rates = st.one_of(st.none(), st.floats(0.01, 1e4))
configs = st.builds(
    lambda shard_size, num_gpus, rounds, folds: replace(
        LVIS,
        label=replace(LVIS.label, shard_size=shard_size, num_gpus=num_gpus),
        student=replace(LVIS.student, rounds=rounds),
        calibration=replace(LVIS.calibration, folds=folds),
    ),
    st.integers(1, 5000),
    st.sampled_from([0.25, 0.5, 1, 2]),
    st.integers(1, 3),
    st.sampled_from([0, 3]),
)


@given(configs, numbers, numbers, gpus, rates)
def test_more_images_never_take_less(config: Config, some: int, more: int, num_gpus: int, rate: float | None) -> None:
    less, much = (planned(config, num, num_gpus, rate) for num in sorted((some, more)))
    assert less.hours <= much.hours
    assert less.label_bytes <= much.label_bytes
    assert less.driver_mib <= much.driver_mib
    assert less.price <= much.price
    for name, count in less.requests.items():
        assert count <= much.requests[name]
    for one, other in zip(less.stages, much.stages, strict=True):
        assert (one.hours or 0) <= (other.hours or 0)


@given(configs, numbers, gpus, gpus, rates)
def test_more_gpus_never_take_longer(config: Config, images: int, some: int, more: int, rate: float | None) -> None:
    few, many = (planned(config, images, num, rate) for num in sorted((some, more)))
    assert few.hours >= many.hours
    assert few.num_workers <= many.num_workers
    assert few.requests == many.requests
    assert few.label_bytes == many.label_bytes


def test_the_figures_of_one_plan_with_their_arithmetic() -> None:
    found = planned(LVIS, 10**8, 64, 20)
    assert found.num_shards == 390_625
    assert found.label_bytes == 10**8 * 37 * 430
    assert found.driver_mib == pytest.approx(260)
    assert found.requests == {
        "listings": 100_000,
        "reads of images": 10**8,
        "writes of shards": 390_625,
        "reads of shards": 11 * 390_625,
    }
    hours = {stage.name: stage.hours for stage in found.stages}
    assert hours["list the pool"] == pytest.approx(770 / 3600)
    assert hours["label"] == pytest.approx(10**8 / (64 * 20) / 3600)
    cpus = 4 * 8 + 64 * 8
    assert hours["totals, selection, drift"] == pytest.approx(max(0.062 / cpus, 0.00062) * 390_625 / 3600)
    assert hours["teacher"] == pytest.approx(180_000 * 16 / (8 * 4) / 3600)
    assert hours["distill: trainings"] == pytest.approx(2 * 90_000 * 32 / (8 * 4) / 3600), "student and baseline"
    assert found.hours == pytest.approx(sum(hours.values()) - hours["another corrector, later"])
    assert found.price == pytest.approx(
        2 * (64 * hours["label"] + 8 * (hours["teacher"] + hours["distill: trainings"]))
    )
    assert found.flags == {"label.num_workers": 64}


def test_without_rates_only_what_is_known_is_said() -> None:
    found = plan_run(LVIS, num_images=1000)
    assert found.num_workers == LVIS.label.num_workers
    assert {stage.name for stage in found.stages if stage.hours is None} == {"teacher", "label", "distill: trainings"}
    assert "not known" in found.text()
    assert found.price is None
    assert not found.flags


def test_the_driver_limits_the_rate() -> None:
    (label,) = [one for one in planned(LVIS, 10**8, 5000, 1e4).stages if one.name == "label"]
    assert label.hours == pytest.approx(390_625 / 30 / 3600)


@given(configs, gpus)
def test_the_groups_hold_the_workers(config: Config, num_gpus: int) -> None:
    found = planned(config, 10**6, num_gpus, None)
    cpu, gpu = found.groups
    for each_cpus, each_gpus, num in (
        (config.label.num_cpus, config.label.num_gpus, found.num_workers),
        (config.teacher.cpus_per_worker, config.teacher.gpus_per_worker, config.teacher.num_workers),
        (config.student.cpus_per_worker, config.student.gpus_per_worker, config.student.num_workers),
    ):
        if num_gpus >= each_gpus:
            assert gpu.pods * int(min(gpu.gpus / each_gpus, gpu.cpus / each_cpus)) >= num
    memory = config.label.memory_gb * int(gpu.gpus / config.label.num_gpus)
    assert gpu.memory_gib * 2**30 / 1e9 * 0.7 >= memory
    assert (cpu.cpus, cpu.gpus) == (CPU_GROUP_CPUS, 0)


@pytest.mark.parametrize(("num_workers", "num_cpus"), [(1, 1.0), (200, 1.0), (40, 6.0), (3, 20.0)])
def test_without_gpus_the_cpu_group_holds_the_workers(num_workers: int, num_cpus: float) -> None:
    config = replace(DEMO, label=replace(DEMO.label, num_workers=num_workers, num_cpus=num_cpus))
    (cpu,) = planned(config, 10**6, None, 1.0).groups
    assert cpu.pods * int(cpu.cpus / num_cpus) >= num_workers
    assert cpu.pods * cpu.cpus >= num_workers * num_cpus + 1
    with pytest.raises(InputError, match=r"--gpus: label\.num_gpus must be above 0, got 0"):
        planned(config, 10**6, 2, None)


def section(origin: str) -> str:
    """Return the text below a heading of docs/, up to the next heading of its level or above."""
    page, _, anchor = origin.partition("#")
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    for match in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w -]", "", match[2].lower()).replace(" ", "-")
        if slug == anchor:
            rest = text[match.end() :]
            end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
            return rest[: end.start()] if end else rest
    raise AssertionError(f"docs/{origin}: no such heading")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_in_the_section_that_it_names(name: str) -> None:
    figure = FIGURES[name]
    assert figure.quoted in " ".join(section(figure.origin).split())
    # The value and the words say the same number.
    scale = 1e6 if "10^6" in figure.about else 1e3 if " ms " in figure.about else 100 if "%" in figure.about else 1
    written = re.findall(r"\d[\d,.]*", figure.about)[0].replace(",", "")
    assert float(written) == pytest.approx(figure.value * scale)


def test_figures_are_those_of_code_and_manifests() -> None:
    assert value("reader_gb") == READER_GB
    groups = workers(ray_object("gpu"))
    assert tuple(group["groupName"] for group in groups) == GROUPS
    for group, figure in zip(groups, ("cpu_pod_gib", "gpu_pod_gib"), strict=True):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert float(limits["memory"].removesuffix("Gi")) / float(limits["cpu"]) == value(figure)
    assert groups[0]["maxReplicas"] == CPU_GROUP_PODS


@pytest.mark.parametrize("group", ["cpu", "gpu"])
def test_the_component_sizes_the_groups_of_an_overlay(group: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    config, num_gpus = (
        (LVIS, 64) if group == "gpu" else (replace(DEMO, label=replace(DEMO.label, num_workers=90)), None)
    )
    found = planned(config, 10**8, num_gpus, 20)
    (tmp_path / "mine" / "plan").mkdir(parents=True)
    text = groups_component(found.groups, num_images=found.num_images)
    (tmp_path / "mine" / "plan" / "kustomization.yaml").write_text(text)
    (tmp_path / "mine" / "kustomization.yaml").write_text(
        "resources: [../k8s/base]\n"
        "components: [../k8s/components/gpu, plan, ../k8s/components/data-volume, ../k8s/components/job]\n"
    )
    (job,) = [one for one in render(tmp_path / "mine") if one["kind"] == "RayJob"]
    validate(job)
    for planned_group, made in zip(found.groups, cluster_spec(job)["workerGroupSpecs"], strict=False):
        assert made["maxReplicas"] == planned_group.pods
        limits = made["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["cpu"] == str(planned_group.cpus)
        assert limits.get("nvidia.com/gpu", "0") == str(planned_group.gpus)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "0"], "--images must be a whole number from 1 to 10^15, got 0"),
        (["--images", "1.5"], "--images must be a whole number from 1 to 10^15, got 1.5"),
        (["--images", "nan"], "--images must be a whole number from 1 to 10^15, got nan"),
        (["--images", "inf"], "--images must be a whole number from 1 to 10^15, got inf"),
        (["--images", "many"], "plan: argument --images: invalid float value: 'many'"),
        (["--images", "1e6", "--gpus", "0"], "--gpus must be >= 1, got 0"),
        (["--images", "1e6", "--images-per-second", "0"], "--images-per-second must be from 1e-06 to 1e+09, got 0"),
        (["--images", "1e6", "--training-images-per-second", "nan"], "--training-images-per-second must be from"),
        (["--images", "1e6", "--price", "-1"], "--price must be from 1e-06 to 1e+09, got -1"),
        (["--images", "1e6", "--images-per-second", "1e-320"], "--images-per-second must be from 1e-06 to 1e+09"),
        (["--images", "1e6", "--label.num_gpus", "1e-300"], "label.num_gpus must be 0 or from 1e-06 to 1e+09"),
        (["--images", "1e6", "--label.num_cpus", "1e300"], "label.num_cpus must be 0 or from 1e-06 to 1e+09"),
        (["--images", "1e6", "--label.memory_gb", "1e300"], "label.memory_gb must be 0 or from 1e-06 to 1e+09"),
        (["--images", "1e6", "--student.cpus_per_worker", "1e300"], "student.cpus_per_worker must be 0 or from"),
        ([], "plan: the following arguments are required: --images"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(REPOSITORY / "configs" / "lvis_maskrcnn_r50.yaml"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_command_prints_the_plan_and_its_origins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(REPOSITORY / "configs" / "lvis_maskrcnn_r50.yaml")
    options = ["--images", "1e8", "--gpus", "64", "--images-per-second", "20", "--price", "2"]
    patch = tmp_path / "plan" / "kustomization.yaml"
    assert main(["plan", config, *options, "--patch", str(patch)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "100,000,000 images in 390,625 shards of 256, 64 labelling workers"
    assert "labels     1.591 TB" in lines
    origins = {f"docs/{figure.origin}" for figure in FIGURES.values()}
    assert {line.partition(": ")[0] for line in lines[-len(origins) :]} == origins
    assert "kind: Component" in patch.read_text()
    assert main(["plan", config, *options, "--label.shard_size", "512", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["num_shards"] == 195_313
    assert found["figures"]["listing"]["origin"] == "docs/scale.md#time"
