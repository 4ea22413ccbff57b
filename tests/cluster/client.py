"""What the tests ask of a cluster, in one namespace of it: any cluster that KUBECONFIG leads to."""

import base64
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from manifests import tools
from manifests.cluster import Cluster, ClusterError, Object
from manifests.versions import versions
from tests.cluster import wait

_DELETE_S = 120
_OVERLAY = Path(__file__).parents[2] / "manifests" / "overlays" / "kind"
_S3 = "streetvision-s3"
_REGION = "us-east-1"
_S3_SECRET = "streetvision-object-store"
FAKE = "kwok.x-k8s.io/node"
# What the Pod Security Standard "restricted" asks for.
RESTRICTED_POD = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True, slots=True)
class Finished:
    """A pod that has come to its end."""

    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """An S3 server in the namespace.

    Attributes:
        endpoint: for pods of the namespace.
        secret: name of the Secret with its keys.
        access_key_id: one of them.
        secret_access_key: the other.
    """

    endpoint: str
    secret: str
    access_key_id: str
    secret_access_key: str


@dataclass(frozen=True, slots=True)
class Client:
    """A cluster and the namespace that a test has in it."""

    cluster: Cluster

    @classmethod
    def connect(cls) -> "Client":
        """The cluster of KUBECONFIG and its current context, with the pinned helm and kubectl.

        Raises:
            ClusterError: nothing answers.
        """
        cluster = Cluster(tools.kubectl(), tools.helm(), None, "default")
        cluster.server_version()
        return cls(cluster)

    @property
    def namespace(self) -> str:
        return self.cluster.namespace

    def within(self, namespace: str) -> "Client":
        """The same cluster, another namespace."""
        return Client(replace(self.cluster, namespace=namespace))

    def with_helm(self, major: int) -> "Client":
        """The same, by helm 3 or 4."""
        return Client(replace(self.cluster, helm=tools.helm(major)))

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
        """What kubectl prints.

        Raises:
            ClusterError: it failed, with its own words, or took too long.
        """
        return self.cluster.run_kubectl(*arguments, stdin=stdin, timeout_s=timeout_s)

    def helm(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """What helm prints.

        Raises:
            ClusterError: it failed, with its own words, or took too long.
        """
        return self.cluster.run_helm(*arguments, timeout_s=timeout_s)

    def apply(self, *objects: Object) -> None:
        """Makes the cluster's objects as these say.

        Raises:
            ClusterError: the API server refused one, with its own words.
        """
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=yaml.safe_dump_all(objects))

    def refusal(self, *objects: Object) -> str | None:
        """What the API server says against these objects; they are not made in any case."""
        try:
            self.kubectl("create", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump_all(objects))
        except ClusterError as err:
            return err.message
        return None

    def may(self, account: str, verb: str, resource: str, *, namespace: str | None = None) -> bool:
        """Whether a ServiceAccount of this namespace may do that, as the API server answers.

        Raises:
            ClusterError: it does not answer.
        """
        user = f"system:serviceaccount:{self.namespace}:{account}"
        where = ("--namespace", namespace or self.namespace)
        command = ("auth", "can-i", verb, resource, f"--as={user}", *where)
        try:
            return self.cluster.run_kubectl(*command, in_namespace=False).strip() == "yes"
        except ClusterError as err:  # a plain no ends with exit code 1
            if err.message.startswith("`kubectl` failed with exit code 1"):
                return False
            raise

    def get(self, kind: str, name: str) -> Object:
        """The object.

        Raises:
            ClusterError: there is none.
        """
        return json.loads(self.kubectl("get", kind, name, "--output=json"))

    def find(self, kind: str, name: str) -> Object | None:
        """The object, or nothing."""
        return self.cluster.get(kind, name)

    def objects(self, kind: str, *, selector: str = "") -> list[Object]:
        """The objects of a kind in the namespace, those with these labels."""
        options = [f"--selector={selector}"] if selector else []
        return json.loads(self.kubectl("get", kind, *options, "--output=json"))["items"]

    def delete(self, kind: str, *names: str, timeout_s: int = _DELETE_S) -> None:
        """Returns once they are gone, or were not there; all of the kind where none is named.

        Raises:
            ClusterError: they are still there.
        """
        command = ("delete", kind, *(names or ["--all"]), "--ignore-not-found", f"--timeout={timeout_s}s")
        self.kubectl(*command, timeout_s=timeout_s + 10)

    def await_rollout(self, what: str, *, timeout_s: float = 180.0) -> None:
        """Returns once every pod of a Deployment, StatefulSet or DaemonSet is the newest and ready.

        Raises:
            ClusterError: that took too long.
        """
        self.cluster.await_rollout(what, timeout_s=timeout_s)

    def await_condition(self, what: str, condition: str, *, timeout_s: float = 180.0) -> None:
        """Returns once the object has the condition, as `kubectl wait` names it.

        Raises:
            ClusterError: it has not in time.
        """
        self.kubectl("wait", what, f"--for={condition}", f"--timeout={timeout_s:.0f}s", timeout_s=timeout_s + 10)

    def await_job(self, name: str, *, timeout_s: float = 300.0) -> str:
        """What the pods of a Job said, once it is complete.

        Raises:
            ClusterError: it failed, with the end of what it said, or took too long.
        """
        conditions = wait.until(
            lambda: _true_conditions(self.get("job", name)) & {"Complete", "Failed"},
            what=f"the end of Job {name}",
            timeout_s=timeout_s,
        )
        output = self.kubectl("logs", f"job/{name}", "--all-containers", "--tail=-1")
        if "Failed" in conditions:
            raise ClusterError(f"Job {name} failed: {output[-2000:]}")
        return output

    def pods(self, selector: str) -> list[Object]:
        """The pods with these labels that are not on their way out."""
        return [pod for pod in self.objects("pods", selector=selector) if "deletionTimestamp" not in pod["metadata"]]

    def ready_addresses(self, service: str) -> set[str]:
        """Addresses of the pods that a Service leads to now."""
        slices = self.objects("endpointslices", selector=f"kubernetes.io/service-name={service}")
        ends = [end for one in slices for end in one.get("endpoints") or []]
        return {address for end in ends if end["conditions"].get("ready") for address in end["addresses"]}

    def run(
        self,
        image: str,
        command: Sequence[str],
        *,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 120.0,
    ) -> Finished:
        """Runs a command in a pod of its own, which is gone afterwards.

        Args:
            image: with its tag; one that is in the node is not pulled.
            command: program and arguments.
            labels: of the pod.
            environment: variables.
            stdin: text that lies in the file `/run/input` there.
            timeout_s: it must have ended by then.

        Raises:
            LateError: it has not ended.
        """
        name = f"run-{secrets.token_hex(4)}"
        container = {
            "name": "run",
            "image": image,
            "command": list(command),
            "env": [{"name": key, "value": value} for key, value in (environment or {}).items()],
            "securityContext": RESTRICTED,
        }
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "securityContext": RESTRICTED_POD,
                "containers": [container],
            },
        }
        if stdin is not None:
            self.apply(_named("ConfigMap", name) | {"data": {"input": stdin}})
            container["volumeMounts"] = [{"name": "input", "mountPath": "/run/input", "subPath": "input"}]
            pod["spec"]["volumes"] = [{"name": "input", "configMap": {"name": name}}]
        self.apply(pod)
        try:
            what = f"the end of `{command[0]}`"
            ended = wait.until(lambda: _ended(self.get("pod", name)), what=what, timeout_s=timeout_s)
            return Finished(ended["exitCode"], self.kubectl("logs", name, "--tail=-1"))
        finally:
            self.kubectl("delete", f"pod/{name}", f"configmap/{name}", "--ignore-not-found", "--wait=false", "--now")

    def reaches(self, address: str, port: int, *, labels: Mapping[str, str] | None = None) -> bool:
        """Whether a pod of this namespace, with these labels, can open a TCP connection to the address or name.

        It tries three times within twelve seconds, so that policies and addresses have time to arrive.
        """
        script = (
            "import socket, sys, time\n"
            "for attempt in range(3):\n"
            "    try:\n"
            "        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()\n"
            "        sys.exit(0)\n"
            "    except OSError as err:\n"
            "        print(err)\n"
            "        time.sleep(1)\n"
            "sys.exit(1)\n"
        )
        command = ["python3", "-c", script, address, str(port)]
        return self.run(storage_initializer(), command, labels=labels).exit_code == 0

    @contextmanager
    def forwarded(self, what: str, port: int) -> Iterator[int]:
        """Yields a port of this machine that leads to a Service's or a pod's.

        Raises:
            ClusterError: there is no way to it.
        """
        with self.cluster.forwarded(what, port) as local:
            yield local

    @contextmanager
    def fake_gpu_node(self, *, gpus: int = 1, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """Yields the name of a node that kwok plays, with GPUs; only pods that tolerate its taint come to it."""
        name = f"fake-{secrets.token_hex(4)}"
        resources = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
        node: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "annotations": {FAKE: "fake", "node.alpha.kubernetes.io/ttl": "0"},
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": "amd64",
                    "type": "kwok",
                    **(labels or {}),
                },
            },
            "spec": {
                "taints": [
                    {"key": FAKE, "value": "fake", "effect": "NoSchedule"},
                    {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                ]
            },
            "status": {"capacity": resources, "allocatable": resources},
        }
        self.kubectl("create", "--filename=-", stdin=yaml.safe_dump(node))
        try:
            self.await_condition(f"node/{name}", "condition=Ready", timeout_s=60)
            yield name
        finally:
            self.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")

    def object_store(self) -> ObjectStore:
        """An S3 server of its own that checks signatures, on a volume; the one of the profile `kind`.

        Raises:
            ClusterError: it is not ready in time.
        """
        keys = {"AWS_ACCESS_KEY_ID": secrets.token_hex(8), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
        if secret := self.find("secret", _S3_SECRET):
            keys = {key: _decoded(secret, key) for key in keys}
        endpoint = f"http://{_S3}:7070"
        host = f"{_S3}.{self.namespace}.svc:7070"
        annotations = {"s3-endpoint": host, "s3-usehttps": "0", "s3-usevirtualbucket": "false", "s3-region": _REGION}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {
                    "name": _S3_SECRET,
                    "annotations": {f"serving.kserve.io/{key}": value for key, value in annotations.items()},
                },
                "stringData": {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": _REGION},
            },
            *yaml.safe_load_all((_OVERLAY / "object-store.yaml").read_text()),
        )
        self.await_rollout(f"deployment/{_S3}")
        return ObjectStore(endpoint, _S3_SECRET, *keys.values())

    def gather(self, folder: Path) -> Path:
        """Writes what helps to understand a failure: objects, events and logs of the namespace, and its releases."""
        folder.mkdir(parents=True, exist_ok=True)
        questions = {
            "objects.txt": ("get", "all,pvc,configmap,networkpolicy,endpointslices", "--output=wide"),
            "events.txt": ("get", "events", "--sort-by=.lastTimestamp"),
            "pods.txt": ("describe", "pods"),
            "inferenceservices.yaml": ("get", "inferenceservices,servingruntimes", "--output=yaml"),
        }
        for name, question in questions.items():
            (folder / name).write_text(self._answer(*question))
        for pod in self.objects("pods"):
            name = pod["metadata"]["name"]
            (folder / f"{name}.log").write_text(self._answer("logs", name, "--all-containers", "--prefix"))
            restarted = [one for one in pod["status"].get("containerStatuses", []) if one["restartCount"]]
            if restarted:
                text = self._answer("logs", name, "--all-containers", "--prefix", "--previous")
                (folder / f"{name}.previous.log").write_text(text)
        with suppress(ClusterError):
            (folder / "releases.txt").write_text(self.helm("list", "--all"))
        return folder

    def create_namespace(self) -> None:
        """Makes it, with the strictest Pod Security Standard, as the namespace of our release has it."""
        labels = {
            "pod-security.kubernetes.io/enforce": "restricted",
            "pod-security.kubernetes.io/enforce-version": "latest",
            "streetvision.test": "true",
        }
        text = yaml.safe_dump(_named("Namespace", self.namespace, labels))
        self.cluster.run_kubectl("create", "--filename=-", stdin=text, in_namespace=False)

    def delete_namespace(self) -> None:
        """Returns once nothing of it is left; InferenceServices go first, while their controller still helps them to.

        Raises:
            ClusterError: something is left after the deadlines.
        """
        if "serving.kserve.io/v1beta1" in self.cluster.api_versions():
            self.delete("inferenceservices")
        self.cluster.run_kubectl(
            *("delete", "namespace", self.namespace, "--ignore-not-found", f"--timeout={_DELETE_S}s"),
            timeout_s=_DELETE_S + 10,
            in_namespace=False,
        )

    def lacks(self, need: str) -> str | None:
        """Why the cluster cannot serve a test that needs this, or nothing.

        Args:
            need: `kserve`, `kwok`, `storage`, `network-policies`, or `image:NAME`.
        """
        kind, _, name = need.partition(":")
        return _NEEDS[kind](self, name)

    def _answer(self, *question: str) -> str:
        try:
            return self.kubectl(*question)
        except ClusterError as err:
            return err.message


def storage_initializer() -> str:
    """An image that is on every cluster of ours, with Python and a shell in it."""
    return f"docker.io/kserve/storage-initializer:{versions()['KSERVE_VERSION']}"


def server(*, name: str = "server", labels: Mapping[str, str] | None = None) -> Object:
    """A pod that listens on port 8080, named `http`."""
    container = {
        "name": "server",
        "image": storage_initializer(),
        "command": ["python3", "-m", "http.server", "8080", "--directory", "/tmp"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
    }
    pod = _named("Pod", name, {"app": name, **(labels or {})})
    pod["spec"] = {
        "automountServiceAccountToken": False,
        "securityContext": RESTRICTED_POD,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    return pod


def _named(kind: str, name: str, labels: Mapping[str, str] | None = None) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": dict(labels or {})}}


def _ended(pod: Object) -> Any:
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    return statuses[0]["state"].get("terminated")


def _true_conditions(value: Object) -> set[str]:
    conditions: Iterable[Object] = value.get("status", {}).get("conditions") or []
    return {one["type"] for one in conditions if one["status"] == "True"}


def _decoded(secret: Object, key: str) -> str:
    return base64.b64decode(secret["data"][key]).decode()


def _lacks_kind(version: str, program: str) -> Any:
    def lacks(client: Client, _: str) -> str | None:
        return None if version in client.cluster.api_versions() else f"{program} is not installed"

    return lacks


def _lacks_storage(client: Client, _: str) -> str | None:
    classes = client.cluster.everywhere("storageclasses")
    default = "storageclass.kubernetes.io/is-default-class"
    if any(one["metadata"].get("annotations", {}).get(default) == "true" for one in classes):
        return None
    return "it has no default StorageClass"


def _lacks_image(client: Client, name: str) -> str | None:
    """Nodes tell the larger of their images; a person who names a registry of their own has them there."""
    if os.environ.get("STREETVISION_IMAGE_PREFIX"):
        return None
    images = [image for node in client.cluster.everywhere("nodes") for image in node["status"].get("images", [])]
    if any(name in image["names"] for image in images):
        return None
    return f"no node has the image {name}: `make images kind-load` brings it"


def _lacks_network_policies(client: Client, _: str) -> str | None:
    """Found out by a policy that forbids everything and a call that it must stop."""
    probe = client.within(f"probe-{secrets.token_hex(4)}")
    probe.create_namespace()
    try:
        policy = {"podSelector": {}, "policyTypes": ["Ingress"]}
        probe.apply(
            server(),
            _named("NetworkPolicy", "nobody") | {"apiVersion": "networking.k8s.io/v1", "spec": policy},
        )
        probe.await_condition("pod/server", "condition=Ready")
        address = probe.get("pod", "server")["status"]["podIP"]
        reached = probe.reaches(address, 8080)
    finally:
        probe.delete_namespace()
    return "its network does not enforce NetworkPolicies" if reached else None


_NEEDS = {
    "image": _lacks_image,
    "network-policies": _lacks_network_policies,
    "kserve": _lacks_kind("serving.kserve.io/v1beta1", "KServe"),
    "kwok": _lacks_kind("kwok.x-k8s.io/v1alpha1", "kwok"),
    "storage": _lacks_storage,
}
