"""What the profile `kind` makes for a local cluster: an S3 server, keys, a mock network and a first model."""

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from boto3.session import Session
from botocore.exceptions import ClientError

from manifests import credentials
from manifests.cluster import OVERLAYS, Cluster, Object
from manifests.first_model import first_model
from manifests.release import MODEL_URI, UNNAMED, Release, at
from streetvision.inference.model_directory import ModelDirectory
from streetvision.registry.decision import Decision, Policy
from streetvision.registry.mlflow import Registry
from streetvision.registry.s3_store import S3Location, S3Store
from streetvision.registry.store import cache_folder

S3 = "streetvision-s3"
ENDPOINT = f"http://{S3}:7070"
MINER, VALIDATOR, METAGRAPH = "streetvision-miner-hotkey", "streetvision-validator-hotkey", "streetvision-metagraph"
MADE = frozenset({credentials.OBJECT_STORE, MINER, VALIDATOR, METAGRAPH})
VALIDATOR_STAKE = 50_000.0
_READY_S = 300


class Step(Protocol):
    """A step while it runs."""

    outcome: str

    def changed(self, *, yes: bool) -> None:
        """Says whether it changed anything."""
        ...


Steps = Callable[[str], AbstractContextManager[Step]]


def prepare(cluster: Cluster, release: Release, steps: Steps, *, model_dir: Path | None, state: Path) -> Release:
    """The release with the address of its model, after everything that it refers to was made.

    Args:
        cluster: a local one.
        release: as the person named it.
        steps: times a step.
        model_dir: what is served; the release's own model stays where none is named.
        state: where `make run` keeps its champion.

    Raises:
        ClusterError: the cluster refused, or the S3 server was not ready in time.
        ModelDirectoryError: that is no model directory, or it was altered.
    """
    objects = cluster.kustomized(OVERLAYS / "kind")
    with steps("namespace and keys") as step:
        changed = cluster.apply([one for one in objects if one["kind"] == "Namespace"])
        changed |= credentials.ensure_object_store(cluster, endpoint=ENDPOINT)
        changed |= credentials.ensure_hotkey(cluster, MINER)
        changed |= credentials.ensure_hotkey(cluster, VALIDATOR)
        changed |= cluster.apply([metagraph(cluster)])
        step.changed(yes=changed)
    with steps("object store") as step:
        step.changed(yes=cluster.apply([one for one in objects if one["kind"] != "Namespace"]))
        cluster.await_rollout(f"deployment/{S3}", timeout_s=_READY_S)
    release = release.with_settings(f"pipelines.kfp.namespace={cluster.namespace}")  # steps run beside the rest
    with steps("first model") as step:
        uri = None if model_dir else release.model(cluster)
        if uri:
            step.outcome = f"unchanged: {uri}"
        else:
            found = first_model(state, model_dir)
            values = release.with_settings(f"{MODEL_URI}={UNNAMED}").plan(cluster).values
            uri = _upload(cluster, found.model, models_uri(values))
            step.outcome = f"{found.origin}: {uri}"
    return release.with_settings(f"{MODEL_URI}={uri}")


def metagraph(cluster: Cluster) -> Object:
    """Who is on the mock network: one validator that may ask, and the miner itself."""
    validator, miner = (_address(cluster, name) for name in (VALIDATOR, MINER))
    neurons = [
        {"uid": 0, "hotkey": validator, "stake": VALIDATOR_STAKE, "permit": True, "ip": "127.0.0.1", "port": 0},
        {"uid": 1, "hotkey": miner, "stake": 0.0, "permit": False, "ip": "127.0.0.1", "port": 8091},
    ]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": METAGRAPH, "labels": {"app.kubernetes.io/part-of": "streetvision"}},
        "data": {"metagraph.json": json.dumps(neurons, indent=2)},
    }


def _address(cluster: Cluster, name: str) -> str:
    return json.loads(credentials.secret(cluster, name)[credentials.HOTKEY])["ss58Address"]


def register(cluster: Cluster, release: Release, steps: Steps, *, named: bool) -> None:
    """Makes what is served the registry's champion, where a person named it or the registry has none yet.

    Args:
        cluster: a local one, with the release on it.
        release: as it was deployed.
        steps: times a step.
        named: whether a person named the model.

    Raises:
        ClusterError: MLflow or the object store cannot be reached.
        RegistryError: MLflow refused.
    """
    values = release.plan(cluster).values
    if not at(values, "mlflow.enabled"):
        return
    service = f"service/{release.name}-mlflow"
    with steps("champion") as step, object_store(cluster), cluster.forwarded(service, 5000) as port:
        uri = at(values, MODEL_URI)
        cache = cache_folder() / "models"
        store = S3Store(models_uri(values), cache=cache)
        registry = Registry(f"http://127.0.0.1:{port}", cache, store=store)
        champion = registry.champion()
        if champion and (not named or champion.source.rstrip("/") == uri.rstrip("/")):
            step.outcome = f"unchanged: version {champion.version}"
            return
        version = registry.register(store.fetch(uri), decision=_UNCOMPARED, params={}, metrics={}).version
        registry.tag(version, "approved_by", "python -m manifests.deploy kind")
        registry.promote(version, expected_champion=champion.version if champion else None)
        step.outcome = f"version {version}, by your word alone: it was compared with none"


_UNCOMPARED = Decision(
    verdict="not enough evidence",
    reasons=("somebody put it on a local cluster without comparing it",),
    n=0,
    policy=Policy(),
)


def models_uri(values: Mapping[str, Any]) -> str:
    """Where the models of a release lie."""
    return f"s3://{at(values, 'global.objectStore.bucket')}/models/roadwork"


def _upload(cluster: Cluster, model: ModelDirectory, uri: str) -> str:
    bucket = S3Location.parse(uri).bucket
    with object_store(cluster):
        client: Any = Session().client("s3")  # the default session would keep the keys that it saw first
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError:
            client.create_bucket(Bucket=bucket)
        return S3Store(uri, cache=cache_folder() / "models").put(model)


@contextmanager
def object_store(cluster: Cluster) -> Generator[None]:
    """Lets boto3 find the cluster's object store in the block: by the environment, as pods do."""
    key_id, key = credentials.object_store_keys(cluster)
    with cluster.forwarded(f"service/{S3}", 7070) as port:
        here = {
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": key,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_DEFAULT_REGION": credentials.REGION,
        }
        before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        try:
            for name in before:
                del os.environ[name]
            os.environ.update(here)
            yield
        finally:
            for name in here:
                os.environ.pop(name, None)
            os.environ.update(before)
