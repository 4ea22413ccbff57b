"""Rendered objects against the schemas of Kubernetes releases and of the custom resources' own definitions."""

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils

from manifests.versions import versions

KUBERNETES = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
CUSTOM = {  # API group: Go module whose files define its kinds, key of its version, folder in it
    "serving.kserve.io": ("github.com/kserve/kserve", "KSERVE_VERSION", "charts/kserve-crd/templates"),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator",
        "PROMETHEUS_OPERATOR_VERSION",
        "example/prometheus-operator-crd",
    ),
}
Object = dict[str, Any]

# It reads 3 MB of definitions anew for every object.
utils.schema_contents = functools.cache(utils.schema_contents)


def group(value: Object) -> str:
    """The object's API group, empty for the oldest."""
    return value["apiVersion"].rpartition("/")[0]


def is_custom(value: Object) -> bool:
    """Whether its kind is none of Kubernetes' own."""
    return group(value) in CUSTOM


def error(value: Object, version: str) -> str | None:
    """What is wrong with an object of Kubernetes' own in this release; a kind that it does not have is wrong too."""
    try:
        kubernetes_validate.validate(value, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as err:
        return err.message
    except kubernetes_validate.ValidationError as err:
        return f"{'.'.join(map(str, err.absolute_path))}: {err.message}"
    return None


def custom_errors(value: Object) -> list[str]:
    """What is wrong with a custom resource; an unknown field is."""
    schema = definitions(group(value)).get((value["apiVersion"], value["kind"]))
    if schema is None:
        return [f"there is no kind {value['kind']} in {value['apiVersion']}"]
    return [
        f"{'.'.join(map(str, err.absolute_path))}: {err.message[:300]}"
        for err in jsonschema.Draft7Validator(schema).iter_errors(value)
    ]


@functools.cache
def definitions(api_group: str) -> dict[tuple[str, str], Object]:
    """Strict JSON schemas of the group's kinds, from the definitions in its Go module; skips where there is no Go."""
    return {
        (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]): _root(
            version["schema"]["openAPIV3Schema"]
        )
        for crd in _documents(module(api_group) / CUSTOM[api_group][2])
        if crd.get("kind") == "CustomResourceDefinition"
        for version in crd["spec"]["versions"]
    }


@functools.cache
def module(api_group: str) -> Path:
    """The folder of the Go module that the group's definitions come from; skips where it cannot be had."""
    name, key, _ = CUSTOM[api_group]
    version = versions()[key]
    go = shutil.which("go")
    if go is None:
        pytest.skip(f"go is not installed, and the definitions come from the Go module {name}@{version}")
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{name}@{version}"], capture_output=True, text=True, check=False, cwd="/"
    )
    answer = json.loads(done.stdout or "{}")
    if "Dir" not in answer:
        pytest.skip(f"the Go module {name}@{version} cannot be had: {answer.get('Error') or done.stderr.strip()}")
    return Path(answer["Dir"])


def _documents(folder: Path) -> Iterator[Object]:
    for file in sorted(folder.glob("*.yaml")):
        text = file.read_text()
        if "{{" not in text:  # that one would be a template around a definition
            yield from (one for one in yaml.load_all(text, Loader=_Loader) if one)


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 but for its `=`, which matchers of labels are called."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


def _root(schema: Object) -> Object:
    strict = _strict(schema)
    strict["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    return strict


def _strict(schema: Object) -> Object:
    """The structural schema of a definition as JSON schema that refuses what the API server would refuse or drop."""
    strict = {key: value for key, value in schema.items() if key in _KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if schema.get("nullable") and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    if "properties" in schema:
        strict["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        strict["items"] = _strict(schema["items"])
    return strict


# What OpenAPI 3 and JSON schema mean alike; combinators repeat properties and say nothing about unknown ones.
_KEPT = {
    *("type", "required", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties", "uniqueItems", "multipleOf", "oneOf", "anyOf", "allOf", "not"),
}
