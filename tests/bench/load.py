"""`python -m tests.bench.load`: a light HTTP client, in a process of its own, that keeps N connections busy."""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop


@dataclass(frozen=True)
class Load:
    """What N connections saw in so many seconds."""

    rps: float
    p50_ms: float
    p99_ms: float
    errors: int


class _Connection(asyncio.Protocol):
    """One connection that sends its request again as soon as it is answered."""

    def __init__(self, request: bytes, took_s: list[float], errors: list[bytes]) -> None:
        self._request = request
        self._took_s = took_s
        self._errors = errors
        self._reply = b""
        self._sent_s = 0.0
        self.transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.WriteTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self._reply = b""
        self._sent_s = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._reply += data
        if _complete(self._reply):
            self._took_s.append(time.perf_counter() - self._sent_s)
            if not self._reply.startswith(b"HTTP/1.1 200"):
                self._errors.append(self._reply[:300])
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply or exc is not None:
            self._errors.append(repr(exc).encode())


def _complete(reply: bytes) -> bool:
    head, separator, body = reply.partition(b"\r\n\r\n")
    if not separator:
        return False
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        return body.endswith(b"0\r\n\r\n")  # chunked
    return len(body) >= int(lower[at + 15 :].split(b"\r\n", 1)[0])


async def load(port: int, path: str, body: bytes, *, connections: int, seconds: float, kind: str) -> Load:
    """Drives a server on 127.0.0.1; what comes in the first fifth of the time is not counted."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: {kind}\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    took_s: list[float] = []
    errors: list[bytes] = []
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: _Connection(request, took_s, errors), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds / 5)
    took_s.clear()
    begun_s = time.perf_counter()
    await asyncio.sleep(seconds * 4 / 5)
    count, elapsed_s = len(took_s), time.perf_counter() - begun_s
    seen = sorted(took_s)
    for transport, _ in opened:
        transport.abort()
    if errors:
        sys.stderr.write(f"{errors[0]!r}\n")
    p50, p99 = (1000 * seen[int(share * (len(seen) - 1))] for share in (0.5, 0.99)) if seen else (0.0, 0.0)
    return Load(count / elapsed_s, p50, p99, len(errors))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.load", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path, help="file with the body of the request")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--content-type", default="application/json")
    given = parser.parse_args()
    found = load(
        given.port,
        given.path,
        given.body.read_bytes(),
        connections=given.connections,
        seconds=given.seconds,
        kind=given.content_type,
    )
    sys.stdout.write(json.dumps(asdict(uvloop.run(found))))


if __name__ == "__main__":
    main()
