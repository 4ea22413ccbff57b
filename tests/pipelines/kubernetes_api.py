"""An imitation of the little of Kubernetes' API that tells why a pod failed: pods, their logs, and events."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml


@dataclass
class KubernetesApi:
    """What it holds.

    Attributes:
        forbidden: whether it refuses everything.
        plot: what happens before each look at pods to come, oldest first.
    """

    url: str = ""
    namespace: str = "kubeflow"
    forbidden: bool = False
    plot: list[Callable[[], object]] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[tuple[str, str], str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def add_pod(self, name: str, *, run: str, node: str, phase: str, **containers: dict[str, Any]) -> None:
        """A pod as Argo makes it, with the state of each of its containers."""
        statuses = [
            {"name": key, "image": "a", "imageID": "", "ready": False, "restartCount": 0, "state": state}
            for key, state in containers.items()
        ]
        metadata = {"name": name, "labels": {"pipeline/runid": run}}
        metadata["annotations"] = {"workflows.argoproj.io/node-name": node}
        self.pods.append({"metadata": metadata, "status": {"phase": phase, "containerStatuses": statuses}})

    def add_warning(self, pod: str, reason: str, message: str) -> None:
        """A warning about a pod."""
        involved = {"kind": "Pod", "name": pod, "namespace": self.namespace}
        self.events.append(
            {"metadata": {"name": f"{pod}.{len(self.events)}"}, "involvedObject": involved, "type": "Warning",
             "reason": reason, "message": message}
        )  # fmt: skip

    def kubeconfig(self, path: Path) -> Path:
        """A file that leads here."""
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "a", "users": [{"name": "a", "user": {}}],
            "clusters": [{"name": "a", "cluster": {"server": self.url}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        """The status and body that a request earns."""
        if self.forbidden:
            return 403, {"kind": "Status", "reason": "Forbidden"}
        base, _, rest = path.partition(f"/api/v1/namespaces/{self.namespace}/")
        if base or not rest:
            return 404, {"kind": "Status", "reason": "NotFound"}
        if rest == "pods":
            if self.plot:
                self.plot.pop(0)()
            key, _, value = query["labelSelector"].partition("=")
            return 200, {"items": [pod for pod in self.pods if pod["metadata"]["labels"].get(key) == value]}
        if rest == "events":
            wanted = dict(part.split("=") for part in query["fieldSelector"].split(","))
            return 200, {
                "items": [one for one in self.events if one["involvedObject"]["name"] == wanted["involvedObject.name"]]
            }
        pod, _, last = rest.removeprefix("pods/").partition("/")
        if last == "log" and (pod, query["container"]) in self.logs:
            lines = self.logs[pod, query["container"]].splitlines(keepends=True)
            return 200, "".join(lines[-int(query["tailLines"]) :])
        return 404, {"kind": "Status", "reason": "NotFound"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubernetesApi

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        status, body = self.api.answer(parts.path, query)
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serve() -> Iterator[KubernetesApi]:
    """An imitation that listens on a free port of this machine."""
    api = KubernetesApi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": api}))
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
