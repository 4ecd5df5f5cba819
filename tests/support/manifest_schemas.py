"""Strict validation of manifests: KubeRay's definitions, Kubernetes' own schemas, and PodMonitor by hand."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

DEFINITIONS = Path(__file__).resolve().parents[3] / "shared" / "kuberay"

KUBERNETES = ("1.30", "1.34")
"""The oldest and the newest Kubernetes whose schemas the manifests must follow."""

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

_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


POD_MONITOR = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "monitoring.coreos.com/v1"},
    kind={"const": "PodMonitor"},
    metadata=OBJECT_META,
    spec=_closed(
        ["selector", "podMetricsEndpoints"],
        selector=_closed(["matchLabels"], matchLabels=_LABELS),
        podMetricsEndpoints={
            "type": "array",
            "minItems": 1,
            "items": _closed(["port"], port={"type": "string"}, interval={"type": "string", "pattern": "^[0-9]+s$"}),
        },
    ),
)
"""The part of Prometheus's definition that the manifest uses, copied by hand: no registry here has the whole."""


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
    """Return the validator of a kind of KubeRay. It is cached because its definition is large."""
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
    group = manifest["apiVersion"].rpartition("/")[0]
    if group == "ray.io":
        validator(manifest["apiVersion"], manifest["kind"]).validate(manifest)
    elif group == "monitoring.coreos.com":
        jsonschema.Draft202012Validator(POD_MONITOR).validate(manifest)
    else:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
