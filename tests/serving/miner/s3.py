"""Real S3 servers: moto, which lets everybody in, and versitygw, which does not; and servers that misbehave."""

import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import pytest
from boto3.session import Session
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from tests.ports import free_port

TOOLS = Path(__file__).parents[3] / ".tools"  # where `make tools` puts them
BUCKET = "streetvision-log"
ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "a very secret key of a test"


def use_keys(monkeypatch: pytest.MonkeyPatch, *, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> None:
    """Keys as an operator gives them to boto3; none of this machine are looked for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


class S3(ABC):
    """A server that can be stopped and started again, and the look of somebody else into it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": "us-east-1"}
        config = Config(s3={"addressing_style": "path"})
        self.client: Any = Session(**keys).client("s3", endpoint_url=self.url, config=config)

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    def close(self) -> None:
        self.stop()
        self.client.close()

    def create_bucket(self) -> None:
        self.client.create_bucket(Bucket=BUCKET)

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=BUCKET)
        assert not listed["IsTruncated"]
        keys = [entry["Key"] for entry in listed.get("Contents", [])]
        return {key: self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


class Refuse(Exception):
    """Makes the server answer with this status."""


class Moto(S3):
    """An S3 server of this process; what it holds outlives a stop.

    Attributes:
        requests: methods and keys of what was asked, in order.
        before: called with every method and key before the answer; may raise `Refuse`.
    """

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
        self.requests: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda _method, _key: None
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None
        self._thread = threading.Thread()

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server = None

    def clear(self) -> None:
        """Forgets everything and has an empty bucket."""
        self.before = lambda _method, _key: None
        with urlopen(Request(f"{self.url}/moto-api/reset", method="POST")):
            pass
        self.create_bucket()
        self.requests.clear()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}").lstrip("/")
        self.requests.append((method, key))
        try:
            self.before(method, key)
        except Refuse as refused:
            start_response(f"{refused} refused", [("Content-Length", "0")])
            return []
        return self._application(environ, start_response)


class VersityGateway(S3):
    """An S3 server over a folder, which checks every signature."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__()
        self._binary = binary
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [self._binary, "--port", f"127.0.0.1:{self.port}", "--quiet", "posix", str(self._folder)]
        keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        self._process = subprocess.Popen(command, env=os.environ | keys, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @staticmethod
    def binary() -> str | None:
        named = os.environ.get("STREETVISION_VERSITYGW") or "versitygw"
        return shutil.which(named) or shutil.which(TOOLS / "versitygw")


class Misbehaving:
    """A server that takes connections and answers every request alike, or not at all.

    Args:
        answer: to every piece of a request, nothing for silence.
        pieces: how many are read of one connection.
        hangs_up: whether it does after them; else it goes on listening to nobody.
    """

    def __init__(self, answer: bytes = b"", *, pieces: int = 1_000_000, hangs_up: bool = False) -> None:
        self._answer, self._pieces, self._hangs_up = answer, pieces, hangs_up
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._taken: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for taken in (self._listener, *self._taken):
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for taken in (self._listener, *self._taken):
            taken.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                self._taken.append(taken)
                self._threads.append(threading.Thread(target=self._serve, args=[taken]))
                self._threads[-1].start()

    def _serve(self, taken: socket.socket) -> None:
        with suppress(OSError):
            for _ in range(self._pieces):
                if not taken.recv(65536):
                    break
                taken.sendall(self._answer)
            if self._hangs_up:
                taken.shutdown(socket.SHUT_RDWR)
