"""Every object that kustomize renders follows its kind's definition, strictly."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from manifest_schemas import validate
from rendered import IDENTITIES, K8S, OVERLAYS, RENDERED, cluster_spec, objects, of_kind, ray_object, ray_pods, render


@pytest.mark.parametrize("name", RENDERED)
def test_every_object_is_valid(name: str) -> None:
    for one in objects(name):
        validate(one)


def test_an_overlay_has_one_object_of_kuberay_and_the_base() -> None:
    kinds = {"cluster": "RayCluster", "nightly": "RayCronJob"}
    assert {"cpu", "gpu", "spot", "kueue", "kind", "nightly", "cluster"} == set(OVERLAYS)
    for name in OVERLAYS:
        assert ray_object(name)["kind"] == kinds.get(name, "RayJob")
        assert {"ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"} < {one["kind"] for one in objects(name)}


@pytest.mark.parametrize("name", ["gpu", "nightly", "cluster"])
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("spec", "entryPoint"), "x", "entryPoint"),
        (("metadata", "lables"), {}, "lables"),
        (("rayVersoin",), "2.60.0", "rayVersoin"),
        (("headGroupSpec", "template", "spec", "containers", 0, "imagePullPolicies"), "Always", "imagePullPolicies"),
        (("headGroupSpec", "template", "spec", "volumes", 1, "persistentVolumeClaim", "claim"), "x", "'claim'"),
        (("workerGroupSpecs", 0, "maxReplicas"), "four", "'four' is not of type 'integer'"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (("authOptions", "mode"), "password", "'password' is not one of"),
        (("headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "16 GB", "16 GB"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_is_not_of_kuberays_definition_is_refused(
    name: str, place: tuple[Any, ...], value: Any, message: str
) -> None:
    manifest = copy.deepcopy(ray_object(name))
    *parents, last = place
    target = manifest if place[0] in manifest else cluster_spec(manifest)
    for part in parents:
        target = target[part]
    target[last] = value
    with pytest.raises(jsonschema.ValidationError, match=re.escape(message)):
        validate(manifest)


@pytest.mark.parametrize(
    ("name", "kind", "change"),
    [
        ("gpu", "NetworkPolicy", {"policyType": ["Ingress"]}),
        ("gpu", "PodDisruptionBudget", {"maxUnavailable": [0]}),
        ("data", "Job", {"template": {"spec": {"containers": [{"image": "x"}]}}}),
        ("data", "PersistentVolumeClaim", {"accessMode": "ReadWriteMany"}),
        ("monitoring", "PodMonitor", {"podMetricEndpoints": []}),
    ],
)
def test_what_is_not_of_the_other_definitions_is_refused(name: str, kind: str, change: dict[str, Any]) -> None:
    manifest = of_kind(name, kind)
    validate(manifest)
    with pytest.raises(jsonschema.ValidationError):
        validate(manifest | {"spec": manifest["spec"] | change})


@pytest.mark.parametrize("identity", IDENTITIES)
def test_identities_annotate_the_account_of_all_pods(identity: str, tmp_path: Path) -> None:
    """A user's own overlay, outside of k8s/, adds an identity, an image and an entrypoint."""
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(
        f"resources: [../k8s/overlays/gpu]\ncomponents: [../k8s/components/{identity}]\n"
        "images: [{name: raylabel, newName: registry.example/raylabel, newTag: '1'}]\n"
        "patches:\n- target: {kind: RayJob}\n"
        "  patch: |\n    - {op: replace, path: /spec/entrypoint, value: python x.py}\n"
        "configMapGenerator:\n- {name: raylabel-config, files: [my.yaml], options: {disableNameSuffixHash: true}}\n"
    )
    (tmp_path / "mine" / "my.yaml").write_text("seed: 1\n")
    made = render(tmp_path / "mine")
    (account,) = [one for one in made if one["kind"] == "ServiceAccount"]
    assert len(account["metadata"]["annotations"]) == 1
    (job,) = [one for one in made if one["kind"] == "RayJob"]
    assert job["spec"]["entrypoint"] == "python x.py"
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (config,) = [one for one in made if one["kind"] == "ConfigMap"]
    assert config["data"] == {"my.yaml": "seed: 1\n"}
    assert head["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    text = str(job)
    assert "registry.example/raylabel:1" in text
    assert "raylabel:0.1.0" not in text
    for one in made:
        validate(one)


@pytest.mark.parametrize(
    "components", [("gpu", "job"), ("gpu", "spot", "job", "nightly"), ("gpu", "cluster"), ("job",)]
)
def test_overlays_of_ones_own_need_no_volume(components: tuple[str, ...], tmp_path: Path) -> None:
    """The guide's way for data by URI."""
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "mine").mkdir()
    listed = ", ".join(f"../k8s/components/{name}" for name in components)
    (tmp_path / "mine" / "kustomization.yaml").write_text(f"resources: [../k8s/base]\ncomponents: [{listed}]\n")
    made = render(tmp_path / "mine")
    for one in made:
        validate(one)
    (ray,) = [one for one in made if one["apiVersion"] == "ray.io/v1"]
    volumes = [volume for template in ray_pods(ray).values() for volume in template["spec"].get("volumes", [])]
    assert all("configMap" in volume for volume in volumes)


@pytest.mark.parametrize("identity", IDENTITIES)
def test_the_loader_gets_an_identity_too(identity: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "mine-data").mkdir()
    (tmp_path / "mine-data" / "kustomization.yaml").write_text(
        f"resources: [../k8s/data]\ncomponents: [../k8s/components/{identity}]\n"
    )
    (account,) = [one for one in render(tmp_path / "mine-data") if one["kind"] == "ServiceAccount"]
    assert account["metadata"]["annotations"]
