"""Real miners on this machine: what they are asked, and what the right answer is."""

import base64
import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bittensor_wallet import Keypair

from streetvision.simulation import Miner
from streetvision.subnet.protocol import parse_headers

VALIDATOR = Keypair.create_from_uri("//Alice")
HOTKEY = Keypair.create_from_uri("//Bob").ss58_address

Answer = Callable[[bytes], tuple[int, Any]]


@dataclass(frozen=True)
class Request:
    """What a miner can know of a request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def image(self) -> bytes:
        return base64.b64decode(self.body["image"])


@dataclass
class Served:
    """A miner at work, and what it was asked."""

    miner: Miner
    requests: list[Request] = field(default_factory=list)


def truth(image: bytes) -> float:
    """The right answer to the picture `<row>-<label>.jpg`."""
    return 0.9 if image.split(b"-")[1].startswith(b"1") else 0.1


def perfect(image: bytes) -> tuple[int, Any]:
    return 200, truth(image)


def serve(stack: ExitStack, answer: Answer, *, uid: int = 1) -> Served:
    """Starts a miner that checks signatures and nonces, and answers what a function says of the picture's bytes."""
    newest: dict[str, int] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # a reply in one packet

        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.path, headers, json.loads(self.rfile.read(int(headers["content-length"]))))
            served.requests.append(request)
            signed = parse_headers(headers)
            verified = Keypair(signed.hotkey).verify(signed.signed_text(HOTKEY), signed.signature)
            with lock:  # as miners do it: within a session a nonce is newer than the one before
                fresh = newest.get(signed.uuid, time.time_ns() - 5 * 10**9) < signed.nonce_ns
                newest[signed.uuid] = signed.nonce_ns
            status, value = answer(request.image) if verified and fresh else (401, None)
            reply = json.dumps({"prediction": value}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(Miner(uid=uid, url=f"http://127.0.0.1:{server.server_port}", hotkey=HOTKEY))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return served
