"""What a release asks of its cluster, read from the objects that it renders to, and what of it is missing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import yaml

from manifests.cluster import Cluster, ClusterError, Object
from manifests.third_party import Part, parts

MINIMUM = (1, 31)
_GPU = "nvidia.com/gpu"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that the cluster must have.

    Attributes:
        what: in a few words.
        missing: what is wrong, or nothing.
        how: what to do about it.
        part: the program of others that brings it, where one does.
        reference: the object that it is, where it is one.
    """

    what: str
    missing: str | None
    how: str = ""
    part: Part | None = None
    reference: "Reference | None" = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A Secret, ConfigMap or claim that an object names and that is not rendered with it."""

    kind: str
    name: str
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Kubeflow:
    """What pipelines that are uploaded ask for.

    Attributes:
        api: address of the API of Kubeflow Pipelines.
        namespace: that steps run in.
        secrets: that steps take from there, by names that are compiled into the pipelines.
    """

    api: str
    namespace: str
    secrets: tuple[Reference, ...]


def needs(cluster: Cluster, objects: Sequence[Object], *, kubeflow: Kubeflow | None) -> list[Need]:
    """Everything that these objects need, the missing first.

    Args:
        cluster: where they shall go.
        objects: what the release renders to.
        kubeflow: where the release uploads pipelines to, if it does.

    Raises:
        ClusterError: the cluster did not answer.
    """
    found = [_version(cluster)]
    groups = {one["apiVersion"].rpartition("/")[0] for one in objects}
    known = cluster.api_versions()
    everything = parts()
    if "serving.kserve.io" in groups:
        if not any(version.startswith("cert-manager.io/") for version in known):
            found.append(
                Need("cert-manager", "its kinds are not known", "for KServe's webhooks", everything["cert-manager"])
            )
        found.append(_kserve(cluster, everything["kserve"]))
    if "monitoring.coreos.com" in groups:
        missing = None if "monitoring.coreos.com/v1" in known else "its kinds are not known"
        how = "or leave them out: `--set monitoring.enabled=false`"
        found.append(Need("Prometheus operator", missing, how, everything["prometheus-operator"]))
    if any(_gpus(objects)):
        found.append(_gpu_nodes(cluster, everything["nvidia-device-plugin"]))
    if any(one["kind"] == "PersistentVolumeClaim" and not one["spec"].get("storageClassName") for one in objects):
        found.append(_storage(cluster))
    if kubeflow:
        found += _pipelines(cluster, kubeflow.api, everything["kfp"])
        there = replace(cluster, namespace=kubeflow.namespace)
        found += [_reference(there, one) for one in kubeflow.secrets]
    found += [_reference(cluster, one) for one in references(objects)]
    return sorted(found, key=lambda need: need.missing is None)


def annotations(cluster: Cluster, secret: str, *, endpoint: str, region: str) -> Need:
    """What KServe's storage initializer must find at the object store's Secret: it reads no variable of the store's."""
    scheme, _, host = endpoint.partition("://")
    wanted = {
        "serving.kserve.io/s3-endpoint": host,
        "serving.kserve.io/s3-usehttps": str(int(scheme == "https")),
        "serving.kserve.io/s3-region": region,
        "serving.kserve.io/s3-usevirtualbucket": "false",
    }
    found = (cluster.get("secret", secret) or {}).get("metadata", {}).get("annotations", {})
    wrong = [key for key, value in wanted.items() if found.get(key) != value]
    pairs = " ".join(f"{key}={value}" for key, value in wanted.items())
    return Need(
        f"Secret `{cluster.namespace}/{secret}` with KServe's annotations for {endpoint}",
        f"it has other {', '.join(wrong)}, or none" if wrong else None,
        f"kubectl --namespace {cluster.namespace} annotate --overwrite secret {secret} {pairs}",
    )


def references(objects: Iterable[Object]) -> list[Reference]:
    """What the objects name and do not bring; what they may do without is left out."""
    listed = list(objects)
    made = {(one["kind"], one["metadata"]["name"]) for one in listed}
    keys: dict[tuple[str, str], set[str]] = {}
    for one in listed:
        for kind, name, key in _named(one):
            keys.setdefault((kind, name), set()).update({key} if key else ())
    return [Reference(kind, name, frozenset(keys[kind, name])) for kind, name in sorted(keys.keys() - made)]


def _named(value: object) -> Iterator[tuple[str, str, str | None]]:
    """Every Secret, ConfigMap and claim that is named somewhere inside, with the key where one is."""
    if isinstance(value, list):
        for one in value:
            yield from _named(one)
        return
    if not isinstance(value, dict):
        return
    for key, inside in value.items():
        match key, inside:
            case _, {"optional": True}:
                continue
            case (("secretKeyRef" | "configMapKeyRef"), {"name": str(name)}):
                yield _KINDS[key], name, inside["key"]
            case (("secretRef" | "configMapRef"), {"name": str(name)}):
                yield _KINDS[key], name, None
            case (("secret" | "configMap"), ({"secretName": str(name)} | {"name": str(name)})):  # volumes
                items = inside.get("items") or [{"key": None}]
                yield from ((_KINDS[key], name, item["key"]) for item in items)
            case (("imagePullSecrets" | "secrets"), list()):
                yield from (("Secret", one["name"], None) for one in inside if isinstance(one, dict) and "name" in one)
            case "secretName", str(name):  # the certificate of an Ingress
                yield "Secret", name, None
            case "claimName", str(name):
                yield "PersistentVolumeClaim", name, None
            case _:
                yield from _named(inside)


_KINDS = {
    "secretKeyRef": "Secret",
    "secretRef": "Secret",
    "secret": "Secret",
    "configMapKeyRef": "ConfigMap",
    "configMapRef": "ConfigMap",
    "configMap": "ConfigMap",
}


def _version(cluster: Cluster) -> Need:
    version = cluster.server_version()
    what = f"Kubernetes {MINIMUM[0]}.{MINIMUM[1]} or newer"
    return Need(what, None if version >= MINIMUM else f"it is {version[0]}.{version[1]}", "upgrade the cluster")


def _kserve(cluster: Cluster, part: Part) -> Need:
    """KServe, asked by a question that its webhooks must answer: only then an InferenceService can be made."""
    probe = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "streetvision-probe", "namespace": "default"},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "s3://probe/probe"}}},
    }
    missing = _refusal(cluster, probe)
    return Need("KServe, its webhooks included", missing, "", part)


def _refusal(cluster: Cluster, value: Object) -> str | None:
    try:
        cluster.run_kubectl(
            "create", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump(value), in_namespace=False
        )
    except ClusterError as err:
        return "its kinds are not known" if "no matches for kind" in err.message else err.message
    return None


def _gpus(objects: Iterable[Object]) -> Iterator[object]:
    def limits(value: object) -> Iterator[object]:
        if isinstance(value, dict):
            if _GPU in (value.get("limits") or {}):
                yield value
            for inside in value.values():
                yield from limits(inside)
        elif isinstance(value, list):
            for inside in value:
                yield from limits(inside)

    for one in objects:
        yield from limits(one)


def _gpu_nodes(cluster: Cluster, part: Part) -> Need:
    count = sum(int(node["status"].get("allocatable", {}).get(_GPU, 0)) for node in cluster.everywhere("nodes"))
    return Need(
        f"a node that offers `{_GPU}`", None if count else "none does", "and the GPU's driver on the node", part
    )


def _storage(cluster: Cluster) -> Need:
    classes = [
        one["metadata"].get("annotations", {}).get(_DEFAULT_CLASS) for one in cluster.everywhere("storageclasses")
    ]
    return Need(
        "a default StorageClass",
        None if "true" in classes else f"{len(classes)} classes, none of them the default",
        f"kubectl annotate storageclass NAME {_DEFAULT_CLASS}=true",
    )


def _pipelines(cluster: Cluster, address: str, part: Part) -> list[Need]:
    host = (urlsplit(address).hostname or "").split(".")
    if len(host) < 2 or (len(host) > 2 and host[2] != "svc"):
        return []  # outside the cluster, where only its own pods may reach it
    found = cluster.get("service", host[0], namespace=host[1])
    what = f"Kubeflow Pipelines at {address}"
    return [Need(what, None if found is not None else f"no Service {host[0]} in namespace {host[1]}", "", part)]


def _reference(cluster: Cluster, wanted: Reference) -> Need:
    found = cluster.get(wanted.kind, wanted.name)
    lacking = sorted(wanted.keys - _keys(found)) if found else []
    what = f"{wanted.kind} `{cluster.namespace}/{wanted.name}`"
    what += f" with {', '.join(sorted(wanted.keys))}" if wanted.keys else ""
    missing = "it does not exist" if found is None else f"it has no {', '.join(lacking)}" if lacking else None
    return Need(what, missing, _HOW[wanted.kind](cluster, wanted), reference=wanted)


def _keys(value: Object) -> set[str]:
    return {*value.get("data", {}), *value.get("binaryData", {})}


def _how_secret(cluster: Cluster, wanted: Reference) -> str:
    keys = sorted(wanted.keys)
    create = f"kubectl --namespace {cluster.namespace} create secret generic {wanted.name}"
    if keys and all(key.isupper() for key in keys):  # variables: a file of lines, where no newline sneaks into a value
        return f"{create} --from-env-file=FILE   (FILE: a line {'=..., '.join(keys)}=...)"
    return " ".join([create, *(f"--from-file={key}=FILE" for key in keys or ["KEY"])])


def _how_other(cluster: Cluster, wanted: Reference) -> str:
    return f"make it in namespace {cluster.namespace}, or name another in your values"


_HOW: dict[str, Callable[[Cluster, Reference], str]] = {
    "Secret": _how_secret,
    "ConfigMap": _how_other,
    "PersistentVolumeClaim": _how_other,
}
