"""An imitation of Kubernetes' API: objects by their path, written only at the version they were read at."""

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

from streetvision.cluster import Cluster


@dataclass
class KubernetesObjects:
    """What it holds.

    Attributes:
        objects: by path.
        texts: logs by path.
        refusals: status by method and path, once each.
        on_get: is called with the path of each question before the answer.
    """

    url: str = ""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    refusals: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    on_get: Callable[[str], object] = lambda _: None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _version: int = 0

    def put(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """Keeps an object, whatever was there."""
        with self._lock:
            self._version += 1
            self.objects[path] = {
                **value,
                "metadata": {**value.get("metadata", {}), "resourceVersion": str(self._version)},
            }
            return self.objects[path]

    def answer(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        """The status and body that a request earns."""
        with self._lock:
            self.asked.append(f"{method} {path}")
            if codes := self.refusals.get((method, path)):
                code = codes.pop(0)
                return code, {"message": f"refused with {code}"}
            match method:
                case "GET":
                    self.on_get(path)
                    if path in self.texts:
                        return 200, "\n".join(self.texts[path].splitlines()[-int(query.get("tailLines", 1000)) :])
                    if path in self.objects:
                        return 200, self.objects[path]
                    if path.endswith("/pods"):
                        return 200, {"items": [one for key, one in self.objects.items() if key.startswith(f"{path}/")]}
                    return 404, {"message": f"{path} not found"}
                case "POST":
                    path = f"{path}/{body['metadata']['name']}"
                    if path in self.objects:
                        return 409, {"message": f"{path} already exists"}
                    return 201, self.put(path, body)
                case _:
                    if path not in self.objects:
                        return 404, {"message": f"{path} not found"}
                    if body["metadata"]["resourceVersion"] != self.objects[path]["metadata"]["resourceVersion"]:
                        return 409, {"message": "the object has been modified"}
                    return 200, self.put(path, body)

    def kubeconfig(self, path: Path, *, namespace: str = "here") -> Path:
        """A file that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "a",
            "users": [{"name": "a", "user": {"token": "the-token"}}],
            "clusters": [{"name": "a", "cluster": {"server": self.url}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path


@contextmanager
def kubernetes_objects() -> Iterator[KubernetesObjects]:
    """Yields one that answers on this machine."""
    api = KubernetesObjects()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            status, value = api.answer(self.command, parts.path, query, body)
            data = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connected(api: KubernetesObjects, folder: Path, monkeypatch: Any) -> Cluster:
    """The cluster as somebody with a kubeconfig reaches it."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(folder / "kubeconfig")))
    return Cluster.connect()
