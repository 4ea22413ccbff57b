"""What the cluster gets besides Kubernetes: cert-manager, KServe and kwok, as manifests/versions.env pins them."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from manifests import third_party
from manifests.cluster import Cluster, ClusterError
from manifests.versions import versions
from tests.cluster import cache, go_build, wait
from tests.cluster.images import CERT_MANAGER
from tests.cluster.kind import Kind
from tests.cluster.process import Programs

# Pods on kwok's nodes have addresses of these ranges, which nobody answers. Without a route of their own they would go
# out by the machine's; the node's real pods are in a narrower range, with a narrower route.
FAKE_ADDRESSES = ("10.244.0.0/16", "10.0.0.0/24")
_FOLDER = Path(__file__).with_name("addons")
_VALUES = third_party.FOLDER / "kserve" / "values.yaml"
_RECORD = ("--namespace", "kube-system", "configmap", "streetvision-addons")
_KWOK_IMAGE = "registry.k8s.io/kwok/kwok"
_KWOK_RELEASE = "https://github.com/kubernetes-sigs/kwok/releases/download"
_READY_S = 240.0
_PROBE = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "probe", "namespace": "default"},
    "spec": {"predictor": {"model": {"modelFormat": {"name": "probe"}, "storageUri": "s3://probe/probe"}}},
}


@dataclass(frozen=True, slots=True)
class Addons:
    """The add-ons of one cluster.

    Attributes:
        kind: the cluster.
        programs: that run.
        published: whether images, and so the charts that are published beside them, can be pulled.
    """

    kind: Kind
    programs: Programs
    published: bool

    def install(self) -> bool:
        """Returns once every add-on answers; false where all were there already.

        Raises:
            ClusterError: the API server refused something.
            LateError: an add-on does not get ready.
        """
        self.keep_traffic_inside()
        key = cache.key(_FOLDER, _VALUES, Path(__file__), str(versions()), str(self.published))
        if self.installed() == key:
            return False
        (self._install_published if self.published else self._install_built)()
        wait.until(self._kserve_answers, what="KServe's webhooks", timeout_s=_READY_S, every_s=1)
        self._record(key)
        return True

    def installed(self) -> str | None:
        """What `install` left behind when it was done, a key of all that it installs."""
        try:
            text = self._cluster.run_kubectl("get", *_RECORD, "--output=json", in_namespace=False)
        except ClusterError:
            return None
        return json.loads(text)["data"]["key"]

    def keep_traffic_inside(self) -> None:
        """Makes a call to a fake pod fail at once."""
        for network in FAKE_ADDRESSES:
            self.kind.execute("ip", "route", "replace", "unreachable", network)

    @property
    def _cluster(self) -> Cluster:
        return self.kind.cluster

    def _install_built(self) -> None:
        pins = versions()
        cert_manager = self._sources(go_build.ADDONS, "github.com/cert-manager/cert-manager")
        kserve = self._sources(go_build.KSERVE, "github.com/kserve/kserve")
        kwok = self._sources(go_build.ADDONS, "sigs.k8s.io/kwok")
        self._apply("--filename", str(cert_manager / "deploy" / "crds"))
        image = f"{CERT_MANAGER}:{pins['CERT_MANAGER_VERSION']}"
        self._apply("--filename=-", stdin=(_FOLDER / "cert-manager.yaml").read_text().replace("IMAGE", image))
        self._helm("kserve-crd", kserve / "charts" / "kserve-crd", "--wait")
        self._helm("kserve", kserve / "charts" / "kserve-resources", "--values", str(_VALUES))
        self._apply("--filename=-", stdin=_tagged(self._kustomize(kwok / "kustomize" / "kwok"), pins["KWOK_VERSION"]))
        wait.until(self._stages_are_known, what="kwok's kinds", timeout_s=60)
        self._apply("--filename=-", stdin=self._kustomize(kwok / "kustomize" / "stage" / "fast"))
        self._roll_out("kube-system", "kwok-controller")
        self._roll_out("cert-manager", "cert-manager")
        self._roll_out("kserve", "kserve-controller-manager")

    def _install_published(self) -> None:
        parts = third_party.parts()
        third_party.install([parts["cert-manager"], parts["kserve"]], self._cluster)
        for name in ("kwok", "stage-fast"):
            self._apply("--filename", f"{_KWOK_RELEASE}/{versions()['KWOK_VERSION']}/{name}.yaml")
        self._roll_out("kube-system", "kwok-controller")

    def _sources(self, module: go_build.GoModule, path: str) -> Path:
        return module.sources(self.programs, path)

    def _apply(self, *arguments: str, stdin: str | None = None) -> None:
        command = ("apply", "--server-side", "--force-conflicts", *arguments)
        self._cluster.run_kubectl(*command, stdin=stdin, timeout_s=120, in_namespace=False)

    def _kustomize(self, folder: Path) -> str:
        return self._cluster.run_kubectl("kustomize", str(folder), in_namespace=False)

    def _helm(self, release: str, chart: Path, *options: str) -> None:
        command = ("upgrade", "--install", release, str(chart), "--namespace", "kserve", "--create-namespace")
        self._cluster.run_helm(*command, *options, timeout_s=_READY_S)

    def _roll_out(self, namespace: str, deployment: str) -> None:
        self._cluster.await_rollout(f"deployment/{deployment}", namespace=namespace, timeout_s=_READY_S)

    def _stages_are_known(self) -> bool:
        return "kwok.x-k8s.io/v1alpha1" in self._cluster.api_versions()

    def _kserve_answers(self) -> bool:
        """Whether its webhooks take an InferenceService: later than its Deployment is ready."""
        command = ("create", "--dry-run=server", "--filename=-")
        self._cluster.run_kubectl(*command, stdin=yaml.safe_dump(_PROBE), in_namespace=False)
        return True

    def _record(self, key: str) -> None:
        _, namespace, _, name = _RECORD
        record = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": namespace},
            "data": {"key": key},
        }
        self._apply("--filename=-", stdin=yaml.safe_dump(record))


def _tagged(manifest: str, version: str) -> str:
    """kwok's own manifest, whose image has no tag."""
    return manifest.replace(f"image: {_KWOK_IMAGE}\n", f"image: {_KWOK_IMAGE}:{version}\n")
