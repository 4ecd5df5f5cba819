"""The jobs of the manifests: what they run, what they ask for, and how they end."""

import copy
import re
import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from raylabel.config import Config, load_config
from rendered import K8S, OVERLAYS, REPOSITORY, cluster_spec, job_spec, of_kind, ray_object, ray_pods, workers

DOCKERFILE = (K8S / "Dockerfile").read_text(encoding="utf-8")
JOBS = [name for name in OVERLAYS if name not in ("cluster", "kind")]
"""Overlays whose job names a config. `kind` runs the demo."""

by_job = pytest.mark.parametrize("name", JOBS)


def in_repository(image_path: str) -> Path:
    """Return the repository's file that the Dockerfile copies to a path of the image."""
    workdir = PurePosixPath(re.findall(r"^WORKDIR (\S+)$", DOCKERFILE, re.MULTILINE)[-1])
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) (\S+)$", DOCKERFILE, re.MULTILINE)
    for sources, target in copied:
        for source in sources.split():
            into_folder = target.endswith("/") or target == "."
            place = workdir / target / source if into_folder else workdir / target
            if PurePosixPath(image_path).is_relative_to(place):
                return REPOSITORY / source / PurePosixPath(image_path).relative_to(place)
    raise AssertionError(f"{image_path}: the Dockerfile copies nothing there")


def job(name: str) -> dict[str, Any]:
    found = job_spec(ray_object(name))
    assert found is not None
    return found


def entrypoint(name: str) -> tuple[str, str, dict[str, str]]:
    """Return script, config and flags of an overlay's entrypoint."""
    python, script, config, *flags = shlex.split(job(name)["entrypoint"])
    assert python == "python"
    assert all(flag.startswith("--") for flag in flags[::2])
    return script, config, {flag.removeprefix("--"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}


def configured(name: str) -> Config:
    _, config, flags = entrypoint(name)
    return load_config(in_repository(config), {flag: value for flag, value in flags.items() if flag != "out"})


def cpus_and_gpus(group: dict[str, Any]) -> tuple[float, float]:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return float(limits["cpu"]), float(limits.get("nvidia.com/gpu", "0"))


@by_job
def test_entrypoint_names_a_script_a_config_and_flags_that_exist(name: str) -> None:
    script, config, flags = entrypoint(name)
    assert in_repository(script).is_file()
    assert in_repository(config).is_file()
    assert "://" in flags["out"], "pods share no disk: the run folder must be a URI"
    configured(name)
    assert PurePosixPath(script).name == ("label.py" if name == "nightly" else "pipeline.py")


def test_kind_runs_the_demo_in_the_head_alone() -> None:
    assert job("kind")["entrypoint"].split()[:4] == ["python", "-m", "raylabel.cli", "demo"]
    assert not workers(ray_object("kind"))
    head = cluster_spec(ray_object("kind"))["headGroupSpec"]
    assert int(head["rayStartParams"]["num-cpus"]) == cpus_and_gpus(head)[0] == 2


@by_job
def test_local_paths_of_a_config_are_on_the_mounted_volume(name: str) -> None:
    config = configured(name)
    data = (config.data.labelled, config.data.images, config.data.validation, config.data.pool)
    for place in filter(None, (*data, config.teacher.weights, config.student.weights)):
        if "://" in str(place):
            continue
        for template in ray_pods(ray_object(name)).values():
            folders = [mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]]
            assert any(PurePosixPath(str(place)).is_relative_to(folder) for folder in folders), place


@by_job
def test_the_largest_cluster_has_what_the_stages_ask_for(name: str) -> None:
    """Each kind of machine suffices alone, so spot machines may all be gone. What runs from the start is little."""
    config = configured(name)
    assert cluster_spec(ray_object(name))["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = workers(ray_object(name))
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    with_gpus = [group for group in groups if cpus_and_gpus(group)[1]]
    for kind in with_gpus or [None]:
        pods = []
        for group in groups:
            if group is kind or group not in with_gpus:
                pods += [cpus_and_gpus(group)] * group["maxReplicas"]
        cpus, gpus = (sum(column) for column in zip(*pods, strict=True))
        for workers_of, num_cpus, num_gpus in (
            (config.teacher.num_workers, config.teacher.cpus_per_worker, config.teacher.gpus_per_worker),
            (config.student.num_workers, config.student.cpus_per_worker, config.student.gpus_per_worker),
            (config.label.num_workers, config.label.num_cpus, config.label.num_gpus),
        ):
            assert isinstance(workers_of, int), "auto takes what is there, and no GPU pod is there at first"
            assert bool(num_gpus) == bool(with_gpus)
            assert workers_of * num_gpus <= gpus
            assert workers_of * num_cpus <= cpus - 1
            slots = sum(int(min(cpu // num_cpus, gpu // num_gpus if num_gpus else 99)) for cpu, gpu in pods)
            assert slots >= workers_of, "CPUs and GPUs of a worker must be in one pod"


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name not in ("kueue", "kind")])
def test_no_gpu_runs_before_it_is_asked_for_and_a_cpu_is_always_free(name: str) -> None:
    for group in workers(ray_object(name)):
        assert group["minReplicas"] == (1 if group["groupName"] == "cpu" else 0)


def test_spot_machines_come_first() -> None:
    for name in ("spot", "nightly"):
        groups = {group["groupName"]: group for group in workers(ray_object(name))}
        assert list(groups) == ["cpu", "gpu", "gpu-spot"]
        assert groups["gpu-spot"]["priority"] > groups["gpu"].get("priority", 0)
        assert cpus_and_gpus(groups["gpu-spot"]) == cpus_and_gpus(groups["gpu"])
        tolerated = {
            place: {one["key"] for one in groups[place]["template"]["spec"]["tolerations"]}
            for place in ("gpu", "gpu-spot")
        }
        assert tolerated["gpu"] == {"nvidia.com/gpu"}
        assert tolerated["gpu"] < tolerated["gpu-spot"]
        affinity = groups["gpu-spot"]["template"]["spec"]["affinity"]["nodeAffinity"]
        terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        keys = {term["matchExpressions"][0]["key"] for term in terms}
        assert tolerated["gpu-spot"] - tolerated["gpu"] < keys


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name != "cluster"])
def test_a_job_follows_the_operators_rules(name: str) -> None:
    """What KubeRay refuses beside its definitions (its `validation.go`), read by hand."""
    spec = job(name)
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    ends = spec.get("shutdownAfterJobFinishes", False)
    assert bool(rules) != ends, "rules and shutdown exclude each other, and one of them must remove the cluster"
    assert ends or "ttlSecondsAfterFinished" not in spec
    if name == "nightly":
        rules, of_jobs = rules[:-2], rules[-2:]
        assert all(rule["policy"] == "DeleteSelf" for rule in of_jobs), "or every night would leave a RayJob"
        assert all(rule["condition"].pop("ttlSeconds") > 3600 for rule in copy.deepcopy(of_jobs)), "after its cluster"
    conditions = [tuple(sorted(rule["condition"].items())) for rule in rules]
    assert len(set(conditions)) == len(conditions)
    assert all(len({"jobStatus", "jobDeploymentStatus"} & set(rule["condition"])) == 1 for rule in rules)
    assert all(rule["policy"] == "DeleteCluster" for rule in rules), "with autoscaling, workers alone can't be deleted"
    ttls = [rule["condition"]["ttlSeconds"] for rule in rules] or [spec["ttlSecondsAfterFinished"]]
    assert set(ttls) == {3600}, "the head's logs stay for an hour"
    assert spec["activeDeadlineSeconds"] > 0
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["backoffLimit"] == (0 if name == "kind" else 3)
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
    assert "suspend" not in spec or ends


def test_kueue_gets_a_job_of_fixed_size() -> None:
    manifest = ray_object("kueue")
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "raylabel"
    assert manifest["spec"]["suspend"] is True
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True
    assert cluster_spec(manifest)["enableInTreeAutoscaling"] is False
    assert len(workers(manifest)) <= 7
    config = configured("kueue")
    pods = {
        name: template["spec"]["containers"][0]["resources"]["requests"]
        for name, template in ray_pods(manifest).items()
    }
    pods["submitter"] = manifest["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["resources"]["requests"]
    counts = {group["groupName"]: group["replicas"] for group in workers(manifest)}
    cpus = sum(float(re.sub("500m", "0.5", one["cpu"])) * counts.get(name, 1) for name, one in pods.items())
    memory = sum(int(one["memory"].removesuffix("Gi")) * counts.get(name, 1) for name, one in pods.items())
    guide = (REPOSITORY / "docs" / "clusters.md").read_text(encoding="utf-8")
    assert f"a quota of at least {cpus:g} CPUs, {memory} GiB and 8 GPUs" in guide
    (gpu,) = [group for group in workers(manifest) if cpus_and_gpus(group)[1]]
    assert gpu["minReplicas"] == gpu["replicas"] == gpu["maxReplicas"] == config.label.num_workers


def test_nights_do_not_overlap() -> None:
    spec = ray_object("nightly")["spec"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"]), "once a day"
    assert spec["jobTemplate"]["activeDeadlineSeconds"] + spec["jobTemplate"]["preRunningDeadlineSeconds"] < 86400


def test_the_loader_copies_a_folder_of_a_bucket(tmp_path: Path) -> None:
    loader = of_kind("data", "Job")["spec"]["template"]["spec"]["containers"][0]
    assert loader["command"][0] == "python"
    source, target = loader["args"]
    assert source.startswith("s3://")
    assert target == loader["volumeMounts"][0]["mountPath"] == "/data"
    (tmp_path / "bucket" / "lvis").mkdir(parents=True)
    (tmp_path / "bucket" / "lvis" / "a.json").write_text("{}")
    (tmp_path / "data").mkdir()
    arguments = [(tmp_path / "bucket").as_uri(), str(tmp_path / "data")]
    subprocess.run([sys.executable, *loader["command"][1:], *arguments], check=True, timeout=60)
    assert (tmp_path / "data" / "lvis" / "a.json").read_text() == "{}"
