"""The manifests of k8s/ as kustomize renders them."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
K8S = REPOSITORY / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
RENDERED = [*(f"overlays/{name}" for name in OVERLAYS), "monitoring", "data"]
"""Folders that a user applies, below k8s/."""

IDENTITIES = sorted(path.name for path in K8S.glob("components/identity-*"))

SPEC_OF = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayCronJob": ("jobTemplate", "rayClusterSpec")}
"""Kind -> where its `spec` holds the cluster."""


def render(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that kustomize makes of a folder. Skips the test without kustomize."""
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if not kubectl and not kustomize:
        pytest.skip("needs kubectl or kustomize, which are absent")
    command = [kubectl, "kustomize", str(folder)] if kubectl else [str(kustomize), "build", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@cache
def _rendered(name: str) -> tuple[dict[str, Any], ...]:
    return tuple(render(K8S / name))


def objects(name: str) -> list[dict[str, Any]]:
    """Return the objects of a folder below k8s/, or of an overlay that is given by its name alone."""
    return list(_rendered(f"overlays/{name}" if name in OVERLAYS else name))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    """Return a folder's one object of a kind."""
    (found,) = [one for one in objects(name) if one["kind"] == kind]
    return found


def ray_object(name: str) -> dict[str, Any]:
    """Return an overlay's one object of KubeRay."""
    (found,) = [one for one in objects(name) if one["kind"] in SPEC_OF]
    return found


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of the Ray cluster in an object of KubeRay."""
    spec = manifest["spec"]
    for part in SPEC_OF[manifest["kind"]]:
        spec = spec[part]
    return spec


def job_spec(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Return the spec of the job in an object of KubeRay. None for a cluster that stays."""
    if manifest["kind"] == "RayCluster":
        return None
    return manifest["spec"].get("jobTemplate", manifest["spec"])


def workers(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the worker groups of the Ray cluster in an object of KubeRay."""
    return cluster_spec(manifest).get("workerGroupSpecs", [])


def ray_pods(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the templates of a Ray cluster's pods: "head" or name of the group -> template."""
    head = {"head": cluster_spec(manifest)["headGroupSpec"]["template"]}
    return head | {group["groupName"]: group["template"] for group in workers(manifest)}


def pods(name: str) -> dict[str, dict[str, Any]]:
    """Return the templates of all pods of a folder below k8s/: name of the pod -> template."""
    found: dict[str, dict[str, Any]] = {}
    for one in objects(name):
        if one["kind"] in SPEC_OF:
            found |= ray_pods(one)
            if job := job_spec(one):
                found["submitter"] = job["submitterPodTemplate"]
        elif one["kind"] == "Job":
            found[one["metadata"]["name"]] = one["spec"]["template"]
    return found
