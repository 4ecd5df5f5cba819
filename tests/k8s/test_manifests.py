"""The manifests of k8s/ follow KubeRay's definitions and name only things that exist."""

import copy
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from raylabel.config import Config, load_config

REPOSITORY = Path(__file__).resolve().parents[2]
DEFINITIONS = REPOSITORY.parent / "shared" / "kuberay"
MANIFESTS = sorted((REPOSITORY / "k8s").glob("ray*.yaml"))
DOCKERFILE = (REPOSITORY / "k8s" / "Dockerfile").read_text(encoding="utf-8")

# Fields that every Kubernetes object has beside its definition's schema.
OBJECT_META = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "additionalProperties": False,
}

by_manifest = pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Convert a definition to a JSON Schema that refuses what an API server would refuse or silently drop."""
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "nullable"}
    for key in ("properties", "patternProperties"):
        if key in schema:
            result[key] = {name: strict(inner) for name, inner in schema[key].items()}
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            result[key] = strict(schema[key])
    for key in ("allOf", "anyOf", "oneOf"):
        # Nothing is closed inside these, because they only constrain fields that `properties` already lists.
        if key in schema:
            result[key] = schema[key]
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not keeps_unknown:
        result["additionalProperties"] = False
    if schema.get("nullable") and isinstance(result.get("type"), str):
        result["type"] = [result["type"], "null"]
    return result


@cache
def validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    """Return the validator of a kind. It is cached because its definition is large."""
    if not DEFINITIONS.is_dir():
        pytest.skip("needs ../shared/kuberay, which is absent")
    group, version = api_version.split("/")
    text = (DEFINITIONS / f"{group}_{kind.lower()}s.yaml").read_text(encoding="utf-8")
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    assert (definition["group"], definition["names"]["kind"]) == (group, kind)
    schemas = {one["name"]: one["schema"]["openAPIV3Schema"] for one in definition["versions"] if one["served"]}
    schema = strict(schemas[version])
    schema["properties"]["metadata"] = OBJECT_META
    return jsonschema.Draft202012Validator(schema)


def validate(manifest: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError unless the manifest follows its kind's definition."""
    validator(manifest["apiVersion"], manifest["kind"]).validate(manifest)


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["rayClusterSpec"] if manifest["kind"] == "RayJob" else manifest["spec"]


def groups(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = cluster_spec(manifest)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pod_specs(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in groups(manifest)]


def containers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for pod in pod_specs(manifest) for container in pod["containers"]]


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


def entrypoint(manifest: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Return script, config and flags of a RayJob's entrypoint."""
    python, script, config, *flags = shlex.split(manifest["spec"]["entrypoint"])
    assert python == "python"
    assert all(name.startswith("--") for name in flags[::2])
    return script, config, {name.removeprefix("--"): value for name, value in zip(flags[::2], flags[1::2], strict=True)}


def configured(manifest: dict[str, Any]) -> Config:
    _, config, flags = entrypoint(manifest)
    overrides = {name: value for name, value in flags.items() if name != "out"}
    return load_config(in_repository(config), overrides)


def quantity(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def test_there_is_a_job_and_a_cluster() -> None:
    assert sorted(read(path)["kind"] for path in MANIFESTS) == ["RayCluster", "RayJob"]


def test_pods_are_scraped_at_the_port_that_kuberay_adds() -> None:
    monitor = read(REPOSITORY / "k8s" / "podmonitor.yaml")
    assert monitor["kind"] == "PodMonitor"
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    # The manifests must not take this port name, because the operator adds it to Ray containers that lack it.
    ports = [port for path in MANIFESTS for one in containers(read(path)) for port in one.get("ports", [])]
    assert "metrics" not in {port["name"] for port in ports}
    assert 8080 not in {port["containerPort"] for port in ports}


@by_manifest
def test_manifest_is_of_kuberays_definition(path: Path) -> None:
    validate(read(path))


@by_manifest
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("spec", "entryPoint"), "x", "entryPoint"),
        (("metadata", "lables"), {}, "lables"),
        (("rayVersoin",), "2.60.0", "rayVersoin"),
        (("headGroupSpec", "template", "spec", "containers", 0, "imagePullPolicies"), "Always", "imagePullPolicies"),
        (("headGroupSpec", "template", "spec", "volumes", 0, "persistentVolumeClaim", "claim"), "x", "'claim'"),
        (("workerGroupSpecs", 0, "maxReplicas"), "four", "'four' is not of type 'integer'"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (("authOptions", "mode"), "password", "'password' is not one of"),
        (("headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "16 GB", "16 GB"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_is_not_of_the_definition_is_refused(path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    manifest = copy.deepcopy(read(path))
    *parents, last = place
    target = manifest if place[0] in manifest else cluster_spec(manifest)
    for name in parents:
        target = target[name]
    target[last] = value
    with pytest.raises(jsonschema.ValidationError, match=re.escape(message)):
        validate(manifest)


@by_manifest
def test_ray_is_the_images_and_the_projects(path: Path) -> None:
    version = cluster_spec(read(path))["rayVersion"]
    assert re.findall(r"^ARG RAY_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE) == [version]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ray,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "ray"]
    assert ray.specifier.contains(version)
    assert f'"ray[{",".join(sorted(ray.extras))}]==${{RAY_VERSION}}"' in DOCKERFILE
    # KubeRay refuses token authentication without a version, and below this one.
    assert tuple(map(int, version.split("."))) >= (2, 52)


@by_manifest
def test_image_is_the_one_that_the_dockerfile_builds(path: Path) -> None:
    (built,) = re.findall(r"docker build .*-t (\S+)", DOCKERFILE)
    assert {container["image"] for container in containers(read(path))} == {built}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert built == f"{project['name']}:{project['version']}"


def test_dockerfile_copies_what_exists_and_is_not_ignored() -> None:
    kept = (REPOSITORY / "k8s" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [
        one for line in re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE) for one in line.split()
    ]
    assert {"jobs", "configs", "raylabel"} <= set(sources)
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in kept


@by_manifest
def test_pods_run_as_the_images_user_without_privileges(path: Path) -> None:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    for pod in pod_specs(read(path)):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == int(user)
    for container in containers(read(path)):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


@by_manifest
def test_jobs_need_a_token(path: Path) -> None:
    assert cluster_spec(read(path))["authOptions"]["mode"] == "token"


@by_manifest
def test_mounts_claims_and_secrets_are_declared_and_documented(path: Path) -> None:
    guide = (REPOSITORY / "docs" / "clusters.md").read_text(encoding="utf-8")
    for pod in pod_specs(read(path)):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            for source in container["envFrom"]:
                assert source["secretRef"]["name"] in guide
        for volume in volumes.values():
            assert volume["persistentVolumeClaim"]["claimName"] in guide


def test_entrypoint_names_a_script_a_config_and_flags_that_exist() -> None:
    for manifest in filter(lambda one: one["kind"] == "RayJob", map(read, MANIFESTS)):
        script, config, flags = entrypoint(manifest)
        assert in_repository(script).is_file()
        assert in_repository(config).is_file()
        assert "://" in flags["out"], "pods share no disk: the run folder must be a URI"
        configured(manifest)


def test_configs_local_paths_are_on_the_mounted_volume() -> None:
    for manifest in filter(lambda one: one["kind"] == "RayJob", map(read, MANIFESTS)):
        config = configured(manifest)
        data = (config.data.labelled, config.data.images, config.data.validation, config.data.pool)
        for place in filter(None, (*data, config.teacher.weights, config.student.weights)):
            for container in containers(manifest):
                folders = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert any(PurePosixPath(str(place)).is_relative_to(folder) for folder in folders), place


def test_the_cluster_has_what_the_stages_ask_for() -> None:
    """The smallest cluster suffices, because a stage that asks for more is refused."""
    for manifest in filter(lambda one: one["kind"] == "RayJob", map(read, MANIFESTS)):
        config = configured(manifest)
        head, *workers = groups(manifest)
        assert head["rayStartParams"]["num-cpus"] == "0"
        pods = []
        for group in workers:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            one = (quantity(limits["cpu"]), quantity(limits.get("nvidia.com/gpu", "0")))
            pods += [one] * group["minReplicas"]
        cpus, gpus = (sum(column) for column in zip(*pods, strict=True))
        for workers_of, num_cpus, num_gpus in (
            (config.teacher.num_workers, config.teacher.cpus_per_worker, config.teacher.gpus_per_worker),
            (config.student.num_workers, config.student.cpus_per_worker, config.student.gpus_per_worker),
            (config.label.num_workers, config.label.num_cpus, config.label.num_gpus),
        ):
            assert num_gpus > 0
            assert workers_of * num_gpus <= gpus
            assert workers_of * num_cpus <= cpus - 1
            slots = sum(int(min(cpu // num_cpus, gpu // num_gpus)) for cpu, gpu in pods)
            assert slots >= workers_of, "CPUs and GPUs of a worker must be in one pod"


def test_a_retried_job_makes_room_and_ends() -> None:
    for manifest in filter(lambda one: one["kind"] == "RayJob", map(read, MANIFESTS)):
        spec = manifest["spec"]
        # KubeRay refuses a time to live without the shutdown.
        assert spec["shutdownAfterJobFinishes"]
        assert spec["ttlSecondsAfterFinished"] >= 0
        assert spec["backoffLimit"] > 0
        assert spec["activeDeadlineSeconds"] > 0
