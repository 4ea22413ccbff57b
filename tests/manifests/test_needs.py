import base64
from dataclasses import dataclass, field

import pytest
import yaml

from manifests.cluster import Cluster, ClusterError
from manifests.needs import Kubeflow, Need, Reference, annotations, needs, references

KNOWN = {"v1", "apps/v1", "cert-manager.io/v1", "serving.kserve.io/v1beta1", "monitoring.coreos.com/v1"}
RENDERED = list(
    yaml.safe_load_all("""
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: sv-roadwork}
spec:
  predictor:
    model: {resources: {limits: {nvidia.com/gpu: 1}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: sv-predictor}
secrets: [{name: streetvision-object-store}]
imagePullSecrets: [{name: registry}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: sv-programs}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: sv-spool}
spec: {}
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: sv}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: sv-miner}
spec:
  template:
    spec:
      containers:
        - env:
            - {name: A, valueFrom: {secretKeyRef: {name: streetvision-object-store, key: AWS_ACCESS_KEY_ID}}}
            - {name: B, valueFrom: {secretKeyRef: {name: streetvision-object-store, key: AWS_SECRET_ACCESS_KEY}}}
            - {name: C, valueFrom: {secretKeyRef: {name: maybe, key: A, optional: true}}}
          envFrom: [{configMapRef: {name: settings}}]
      volumes:
        - {name: hotkey, secret: {secretName: miner-hotkey, items: [{key: hotkey, path: hotkey}]}}
        - {name: programs, configMap: {name: sv-programs}}
        - {name: ca, secret: {secretName: ca, optional: true}}
        - {name: both, projected: {sources: [{secret: {name: token}}, {configMap: {name: settings}}]}}
        - {name: spool, persistentVolumeClaim: {claimName: sv-spool}}
        - {name: old, persistentVolumeClaim: {claimName: nonces}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: sv}
spec: {tls: [{hosts: [a], secretName: certificate}]}
""")
)


@dataclass
class Fake:
    """A cluster that has what it is given."""

    version: tuple[int, int] = (1, 35)
    known: set[str] = field(default_factory=lambda: set(KNOWN))
    objects: dict[tuple[str, str, str], dict] = field(default_factory=dict)
    nodes: list[dict] = field(default_factory=lambda: [{"status": {"allocatable": {"nvidia.com/gpu": "1"}}}])
    classes: list[dict] = field(default_factory=lambda: [_default_class("true")])
    refusal: str = ""
    namespace: str = "streetvision"

    def server_version(self):
        return self.version

    def api_versions(self):
        return self.known

    def everywhere(self, kind):
        return {"nodes": self.nodes, "storageclasses": self.classes}[kind]

    def get(self, kind, name, *, namespace=None):
        return self.objects.get((kind.lower(), namespace or self.namespace, name))

    def run_kubectl(self, *arguments, stdin=None, in_namespace=True):
        assert "--dry-run=server" in arguments
        if self.refusal:
            raise ClusterError(self.refusal)


def _default_class(value):
    return {"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": value}}}


def _secret(*keys):
    return {"data": {key: base64.b64encode(b"x").decode() for key in keys}}


def _complete(**changes):
    have = {
        ("secret", "streetvision-object-store"): _secret("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("secret", "miner-hotkey"): _secret("hotkey"),
        ("secret", "registry"): _secret(),
        ("secret", "token"): _secret(),
        ("secret", "certificate"): _secret(),
        ("configmap", "settings"): {},
        ("persistentvolumeclaim", "nonces"): {},
    }
    objects = {(kind, "streetvision", name): value for (kind, name), value in have.items()}
    objects["service", "kubeflow", "ml-pipeline"] = {}
    return Fake(**({"objects": objects} | changes))


def _missing(cluster, objects=RENDERED, api="http://ml-pipeline.kubeflow:8888"):
    return [
        need
        for need in needs(cluster, objects, kubeflow=Kubeflow(api, "kubeflow", ()) if api else None)
        if need.missing
    ]


def test_what_is_named_and_not_rendered_is_a_reference_with_its_keys():
    assert references(RENDERED) == [
        Reference("ConfigMap", "settings", frozenset()),
        Reference("PersistentVolumeClaim", "nonces", frozenset()),
        Reference("Secret", "certificate", frozenset()),
        Reference("Secret", "miner-hotkey", frozenset({"hotkey"})),
        Reference("Secret", "registry", frozenset()),
        Reference("Secret", "streetvision-object-store", frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})),
        Reference("Secret", "token", frozenset()),
    ]


def test_nothing_is_missing_where_everything_is_there():
    assert _missing(_complete()) == []


@pytest.mark.parametrize(
    ("changes", "what", "missing"),
    [
        ({"version": (1, 30)}, "Kubernetes 1.31 or newer", "it is 1.30"),
        ({"known": KNOWN - {"cert-manager.io/v1"}}, "cert-manager", "its kinds are not known"),
        ({"refusal": "no matches for kind"}, "KServe, its webhooks included", "its kinds are not known"),
        ({"refusal": "no endpoints available"}, "KServe, its webhooks included", "no endpoints available"),
        ({"known": KNOWN - {"monitoring.coreos.com/v1"}}, "Prometheus operator", "its kinds are not known"),
        (
            {"nodes": [{"status": {"allocatable": {"nvidia.com/gpu": "0"}}}, {"status": {}}]},
            "a node that offers",
            "none",
        ),
        ({"classes": [_default_class("false"), {"metadata": {}}]}, "a default StorageClass", "2 classes, none"),
    ],
)
def test_what_the_cluster_lacks_is_named(changes, what, missing):
    (need,) = _missing(_complete(**changes))
    assert need.what.startswith(what)
    assert need.missing.startswith(missing)


@pytest.mark.parametrize("part", ["cert-manager", "kserve", "prometheus-operator", "nvidia-device-plugin", "kfp"])
def test_each_part_of_others_comes_with_its_commands(part):
    bare = Fake(known={"v1"}, nodes=[], refusal="no matches for kind")
    (need,) = [need for need in _missing(bare) if need.part and need.part.name == part]
    assert all(str(command).startswith(("helm upgrade --install", "kubectl ")) for command in need.part.commands)


def test_a_secret_without_a_key_is_named_with_the_command_that_makes_it():
    cluster = _complete()
    cluster.objects["secret", "streetvision", "miner-hotkey"] = _secret("coldkey")
    (need,) = _missing(cluster)
    assert need.missing == "it has no hotkey"
    assert need.how == "kubectl --namespace streetvision create secret generic miner-hotkey --from-file=hotkey=FILE"


def test_only_what_the_objects_need_is_asked_for():
    bare = Fake(known={"v1"}, nodes=[], classes=[], refusal="no matches for kind")
    service = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}]
    assert needs(bare, service, kubeflow=None) == [Need("Kubernetes 1.31 or newer", None, "upgrade the cluster")]


def test_an_object_store_that_is_not_amazons_needs_kserves_annotations():
    cluster = _complete()
    where = {"endpoint": "https://s3.example.com:9000", "region": "eu-central-1"}
    need = annotations(cluster, "streetvision-object-store", **where)
    assert "serving.kserve.io/s3-endpoint" in need.missing
    assert "serving.kserve.io/s3-endpoint=s3.example.com:9000 serving.kserve.io/s3-usehttps=1" in need.how
    given = dict(pair.split("=") for pair in need.how.split("streetvision-object-store ")[1].split())
    cluster.objects["secret", "streetvision", "streetvision-object-store"]["metadata"] = {"annotations": given}
    assert annotations(cluster, "streetvision-object-store", **where).missing is None


def test_a_secret_of_the_steps_is_looked_for_in_their_namespace():
    wanted = Reference("Secret", "streetvision-object-store", frozenset({"AWS_ACCESS_KEY_ID"}))
    kubeflow = Kubeflow("http://ml-pipeline.kubeflow:8888", "kubeflow", (wanted,))
    (need,) = [need for need in needs(_complete(), RENDERED, kubeflow=kubeflow) if need.missing]
    assert need.what == "Secret `kubeflow/streetvision-object-store` with AWS_ACCESS_KEY_ID"
    assert need.how.startswith("kubectl --namespace kubeflow create secret")


@pytest.mark.parametrize("api", ["https://pipelines.example.com", "http://localhost:8888"])
def test_an_api_outside_the_cluster_is_not_looked_for_in_it(api):
    assert _missing(_complete(), api=api) == []


def test_a_claim_with_a_class_of_its_own_needs_no_default():
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "a"},
        "spec": {"storageClassName": "x"},
    }
    assert _missing(_complete(classes=[]), [claim]) == []


def test_the_fake_offers_what_a_cluster_does():
    assert all(
        hasattr(Cluster, name) for name in ("server_version", "api_versions", "everywhere", "get", "run_kubectl")
    )
