"""All pods of the manifests: the image, the user, what they may do, what they mount, and what guards them."""

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement

from raylabel.cluster.machines import WAIT_VARIABLE
from rendered import K8S, OVERLAYS, REPOSITORY, cluster_spec, objects, of_kind, pods, ray_object, ray_pods

DOCKERFILE = (K8S / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GUIDE = (REPOSITORY / "docs" / "clusters.md").read_text(encoding="utf-8")

by_overlay = pytest.mark.parametrize("name", OVERLAYS)
with_pods = pytest.mark.parametrize("name", [*OVERLAYS, "data"])


def restricted(pod: dict[str, Any], container: dict[str, Any]) -> bool:
    """Whether Pod Security "restricted" admits a container."""
    own = container["securityContext"]
    shared = pod["securityContext"] | own
    return (
        own["allowPrivilegeEscalation"] is False
        and own["capabilities"] == {"drop": ["ALL"]}
        and not own.get("privileged")
        and shared["runAsNonRoot"] is True
        and shared["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        and shared.get("runAsUser") != 0
        and not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        and all(set(volume) - {"name"} <= {"persistentVolumeClaim", "configMap"} for volume in pod.get("volumes", []))
    )


@with_pods
def test_namespaces_with_restricted_pods_admit_all(name: str) -> None:
    (user,) = re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE)
    found = pods(name)
    assert found
    for template in found.values():
        pod = template["spec"]
        assert pod["securityContext"]["runAsUser"] == int(user)
        assert all(restricted(pod, container) for container in pod["containers"])
        loose = {**pod["containers"][0], "securityContext": {"allowPrivilegeEscalation": True, "capabilities": {}}}
        assert not restricted(pod, loose)


@by_overlay
def test_the_autoscaler_is_restricted_and_of_the_second_kind(name: str) -> None:
    spec = cluster_spec(ray_object(name))
    assert spec["enableInTreeAutoscaling"] == ("autoscalerOptions" in spec)
    if spec["enableInTreeAutoscaling"]:
        options = spec["autoscalerOptions"]
        assert options["version"] == "v2"
        assert restricted({"securityContext": {}}, options)
        # KubeRay refuses other policies with this autoscaler.
        assert all(one["spec"].get("restartPolicy", "Never") == "Never" for one in ray_pods(ray_object(name)).values())


@with_pods
def test_image_is_the_one_that_the_dockerfile_builds(name: str) -> None:
    (built,) = re.findall(r"docker build .*-t (\S+)", DOCKERFILE)
    assert built == f"{PROJECT['name']}:{PROJECT['version']}"
    assert {one["image"] for template in pods(name).values() for one in template["spec"]["containers"]} == {built}
    assert f"docker build -f k8s/Dockerfile -t {built} ." in GUIDE


@by_overlay
def test_ray_is_the_images_and_the_projects(name: str) -> None:
    version = cluster_spec(ray_object(name))["rayVersion"]
    assert re.findall(r"^ARG RAY_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE) == [version]
    (ray,) = [one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "ray"]
    assert ray.specifier.contains(version)
    assert f'"ray[{",".join(sorted(ray.extras))}]==${{RAY_VERSION}}"' in DOCKERFILE
    # KubeRay refuses token authentication without a version, and below this one.
    assert tuple(map(int, version.split("."))) >= (2, 52)
    assert cluster_spec(ray_object(name))["authOptions"]["mode"] == "token"


def test_dockerfile_copies_what_exists_and_is_not_ignored() -> None:
    kept = (K8S / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [
        one for line in re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE) for one in line.split()
    ]
    assert {"jobs", "configs", "raylabel"} <= set(sources)
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert f"!{source}" in kept


@with_pods
def test_only_a_head_has_a_token_of_the_api_server(name: str) -> None:
    account = "raylabel"
    if name in OVERLAYS:
        made = of_kind(name, "ServiceAccount")
        assert (made["metadata"]["name"], made["automountServiceAccountToken"]) == (account, False)
    for place, template in pods(name).items():
        assert template["spec"]["serviceAccountName"] == account
        assert template["spec"]["automountServiceAccountToken"] is (place == "head")


@with_pods
def test_mounts_claims_and_secrets_are_declared_and_documented(name: str) -> None:
    for place, template in pods(name).items():
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)
            secrets = [source["secretRef"] for source in container.get("envFrom", [])]
            assert bool(secrets) == (place != "submitter")
            assert all(one["optional"] and one["name"] in GUIDE for one in secrets)
        claim = of_kind("data", "PersistentVolumeClaim")
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["optional"]
                assert volume["configMap"]["name"] in GUIDE
            else:
                assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@by_overlay
def test_all_pods_of_a_cluster_mount_the_same_read_only(name: str) -> None:
    found = [template["spec"] for template in ray_pods(ray_object(name)).values()]
    assert all(one.get("volumes") == found[0].get("volumes") for one in found)
    mounts = [one["containers"][0].get("volumeMounts", []) for one in found]
    assert all(one == mounts[0] for one in mounts)
    assert all(mount["readOnly"] for mount in mounts[0])
    assert [mount["mountPath"] for mount in mounts[0]] == (["/config"] if name == "kind" else ["/config", "/data"])


@by_overlay
def test_pods_have_time_for_a_checkpoint_and_the_head_stays(name: str) -> None:
    for place, template in ray_pods(ray_object(name)).items():
        # Kubernetes gives 30 s by itself. docs/training-faults.md: the checkpoint follows the notice within seconds.
        assert template["spec"]["terminationGracePeriodSeconds"] > 60
        annotations = template["metadata"].get("annotations", {})
        evict = annotations.get("cluster-autoscaler.kubernetes.io/safe-to-evict")
        assert evict == ("false" if place == "head" else None)
    budget = of_kind(name, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 0
    # KubeRay gives the pods the second label.
    assert budget["selector"]["matchLabels"] == {"app.kubernetes.io/part-of": "raylabel", "ray.io/node-type": "head"}


@by_overlay
def test_the_driver_waits_for_machines_less_long_than_the_job_may_take(name: str) -> None:
    (variable,) = cluster_spec(ray_object(name))["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["name"] == WAIT_VARIABLE
    assert float(variable["value"]) >= 600


def port_names(name: str) -> dict[str, int]:
    head = cluster_spec(ray_object(name))["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {port["name"]: port["containerPort"] for port in head["ports"]}


METRICS_PORT = 8080
"""The port `metrics` that the operator adds to Ray containers that lack it."""


@with_pods
def test_the_network_lets_pods_reach_each_other_and_the_store_alone(name: str) -> None:
    policy = of_kind(name if name in OVERLAYS else "gpu", "NetworkPolicy")["spec"]
    mine = policy["podSelector"]["matchLabels"].items()
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    for template in pods(name).values():
        assert mine <= template["metadata"]["labels"].items(), "the policy must select every pod"
    own, anyone = policy["ingress"]
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    assert anyone["from"] == [{"namespaceSelector": {}}]
    ports = port_names("gpu")
    reached = {one["port"] for one in anyone["ports"]}
    assert reached == {ports["dashboard"], ports["as-metrics"], ports["dash-metrics"], METRICS_PORT}
    out = [{one["port"] for one in rule.get("ports", [])} for rule in policy["egress"]]
    assert out == [set(), {53}, {443, 6443}, {80, 988}]


def test_every_metrics_port_is_scraped() -> None:
    monitor = of_kind("monitoring", "PodMonitor")
    scraped = [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]]
    for name in OVERLAYS:
        declared = port_names(name)
        # The manifests must not take the operator's name and port, because it adds them to containers that lack them.
        assert "metrics" not in declared
        assert METRICS_PORT not in declared.values()
        assert set(scraped) == {"metrics", *(one for one in declared if one.endswith("-metrics"))}
    assert f"release: {monitor['metadata']['labels']['release']}" in GUIDE


def test_grafana_gets_the_dashboard() -> None:
    dashboard = of_kind("monitoring", "ConfigMap")
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    (text,) = dashboard["data"].values()
    assert text == (K8S / "monitoring" / "grafana-dashboard.json").read_text(encoding="utf-8")


def test_no_object_has_a_namespace() -> None:
    for name in OVERLAYS:
        assert all("namespace" not in one["metadata"] for one in objects(name)), "kubectl -n says where"
