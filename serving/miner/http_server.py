"""HTTP/1.1 for callers who may be hostile: a handler sees the headers first, and decides how much of a body comes in.

Every phase of a connection has a deadline and every buffer a bound; both are in `Limits`. What breaks them is refused
with one `WireError`, and whoever is refused is hung up on.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from streetvision.errors import WireError

logger = logging.getLogger(__name__)

_RECEIVE_BYTES = 64 * 1024
_LINGER_S = 2.0
_LINGER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one caller, and all of them together, may take.

    Attributes:
        head_bytes: of the request line and the headers together.
        head_timeout_s: from the connection, or from the first byte of a later request, to the last header.
        body_timeout_s: from the first byte of the request to the last one of its body.
        idle_timeout_s: how long a kept-alive connection waits for the next request.
        chunks: pieces of a chunked body.
        connections: at a time; the oldest whose caller has proven nothing gives way to a newcomer.
        connections_per_address: at a time; 0 for no limit, as behind a load balancer that hides its callers.
        bodies_bytes: of all bodies in flight, held until their answer has left.
        unproven_bytes: the part of it for callers whose signature has not passed; where it is full, the body that has
            waited longest for its rest gives way.
    """

    head_bytes: int = 16 * 1024
    head_timeout_s: float = 5.0
    body_timeout_s: float = 5.0
    idle_timeout_s: float = 30.0
    chunks: int = 4096
    connections: int = 1024
    connections_per_address: int = 64
    bodies_bytes: int = 64 * 1024 * 1024
    unproven_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; `keep_alive` lets the same connection carry the next request."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content_type: str = "application/json"
    keep_alive: bool = True

    def encode(self, *, keep_alive: bool) -> bytes:
        """The answer as it goes over the wire."""
        head = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"date: {formatdate(usegmt=True)}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        if not keep_alive:
            head.append("connection: close")
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + self.body


class Room:
    """Bytes that may be held at a time.

    Attributes:
        limit_bytes: how many.
        used_bytes: how many are.
        waiting: whose bodies may give way to another's, oldest first.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.waiting: dict[Request, None] = {}

    def take(self, count: int) -> bool:
        """Whether `count` more bytes fit; if so they are taken."""
        if self.used_bytes + count > self.limit_bytes:
            return False
        self.used_bytes += count
        return True

    def give_back(self, count: int) -> None:
        """Frees bytes that were taken."""
        self.used_bytes -= count


class Request:
    """The head of a request, and the way to its body.

    Attributes:
        method: in upper case.
        target: path and query as sent.
        headers: names in lower case; values of a repeated header are joined by commas.
        arrival_s: the event loop's time when its first byte came.
    """

    def __init__(
        self,
        connection: "_Connection",
        *,
        method: str,
        target: str,
        headers: Mapping[str, str],
        arrival_s: float,
        rooms: tuple[Room, Room],
        limits: Limits,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.arrival_s = arrival_s
        self._connection = connection
        self._limits = limits
        self._body_until_s = arrival_s + limits.body_timeout_s
        self._proven, self._unproven = rooms
        self._room: Room | None = None  # until somebody asks for the body, there is no more of it than came along
        self._buffer = bytearray()
        self._limit_bytes = _RECEIVE_BYTES
        self._held = 0
        self._chunks = 0
        self._failure: WireError | None = None
        self._progress = asyncio.Event()
        self.complete = False
        self.wanted = False

    def trust(self) -> None:
        """Treats the caller as one whose signature has passed: the connection gives way to none, the body has room.

        Raises:
            WireError: 503, such bodies already fill the memory set aside for them.
        """
        self._move(self._proven)
        self._connection.trust()

    def limit_body(self, limit_bytes: int) -> None:
        """Sets how long the body may be; until then it is not read on.

        Raises:
            WireError: 413, its declared length is larger.
        """
        self._limit_bytes = limit_bytes
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit_bytes:
            raise self._too_large(declared)
        if len(self._buffer) > limit_bytes:
            raise self._too_large("more")

    async def body(self) -> bytes:
        """The whole body, as soon as it is there.

        Raises:
            WireError: 400, it is malformed or broken off; 408, it is slow; 413, it is too large; 503, there is no room.
        """
        if self._room is None:
            self._move(self._unproven)
        if not self.complete:
            self.wanted = True
            self._connection.want_body()
            try:
                async with asyncio.timeout_at(self._body_until_s):
                    while not self.complete and self._failure is None:
                        self._progress.clear()
                        await self._progress.wait()
            except TimeoutError as err:
                timeout_s = self._limits.body_timeout_s
                raise WireError(f"body was not complete after {timeout_s:g} s", status=408, reason="slow_body") from err
        if self._failure is not None:
            raise self._failure
        body = bytes(self._buffer)
        self._buffer.clear()
        return body

    def receive(self, data: bytes) -> None:
        """Takes one more piece of the body."""
        if self._failure is not None:
            return
        if len(self._buffer) + len(data) > self._limit_bytes:
            self.fail(self._too_large("more"))
        elif self._room is not None and not self._take(self._room, len(data)):
            self.fail(_busy())
        else:
            self._held += len(data)
            self._buffer += data

    def count_chunk(self) -> None:
        """Notes that one more chunk begins."""
        self._chunks += 1
        if self._chunks > self._limits.chunks:
            self.fail(
                WireError(f"body came in more than {self._limits.chunks} chunks", status=413, reason="too_many_chunks")
            )

    def finish(self) -> None:
        """Notes that the body is complete."""
        self.complete = True
        self._unproven.waiting.pop(self, None)
        self._progress.set()

    def fail(self, error: WireError) -> None:
        """Gives up on a body that is not complete."""
        if not self.complete and self._failure is None:
            self._failure = error
            self._progress.set()

    def release(self) -> None:
        """Gives back the room that the body took."""
        if self._room is not None:
            self._room.waiting.pop(self, None)
            self._room.give_back(self._held)
        self._held = 0

    def _move(self, room: Room) -> None:
        if not self._take(room, self._held):
            raise _busy()
        if self._room is not None:
            self._room.waiting.pop(self, None)
            self._room.give_back(self._held)
        self._room = room
        if room is self._unproven and not self.complete:
            room.waiting[self] = None

    def _take(self, room: Room, count: int) -> bool:
        """Whether the room has so many bytes, if need be those of bodies that wait in it for their rest."""
        while not room.take(count):
            oldest = next((one for one in room.waiting if one is not self), None)
            if oldest is None:
                return False
            oldest.fail(_busy())
            oldest.release()
        return True

    def _too_large(self, got: str) -> WireError:
        return WireError(f"body has {got} bytes, expected at most {self._limit_bytes}", status=413, reason="too_large")


def _busy() -> WireError:
    return WireError("too many bodies are in flight, ask again later", status=503, reason="busy")


class HttpServer:
    """Serves one handler on listening sockets.

    Args:
        handler: answers a request; a `WireError` from it is refused.
        refuse: counts a refusal and gives its answer.
        limits: of what callers may take.
    """

    def __init__(
        self,
        handler: Callable[[Request], Awaitable[Reply]],
        refuse: Callable[[WireError], Reply],
        *,
        limits: Limits,
    ) -> None:
        self.handler = handler
        self.refuse = refuse
        self.limits = limits
        self.closing = False
        self.rooms = (Room(limits.bodies_bytes), Room(limits.unproven_bytes))
        # One for all connections: what was received is parsed before anything else is.
        self.receive_buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self.head_buffer = self.receive_buffer[: limits.head_bytes]
        self._connections: set[_Connection] = set()
        self._expendable: dict[_Connection, None] = {}  # those whose caller has proven nothing; oldest first
        self._addresses: Counter[str] = Counter()
        self._empty = asyncio.Event()
        self._listeners: list[asyncio.Server] = []

    async def listen(self, listener: socket.socket) -> None:
        """Accepts connections of one more listening socket."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_server(lambda: _Connection(self), sock=listener, backlog=1024))

    def set_limits(self, limits: Limits) -> None:
        """Puts other limits in force, for connections and bodies to come."""
        self.limits = limits
        for room, limit_bytes in zip(self.rooms, (limits.bodies_bytes, limits.unproven_bytes), strict=True):
            room.limit_bytes = limit_bytes

    async def close(self, *, grace_s: float) -> None:
        """Accepts nothing more, answers what has arrived, and returns when every connection has ended."""
        self.closing = True
        for server in self._listeners:
            server.close()
        for connection in list(self._connections):
            if not connection.answers:
                connection.abort()
        try:
            async with asyncio.timeout(grace_s):
                await self._all_ended()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._all_ended()

    async def _all_ended(self) -> None:
        while self._connections:
            self._empty.clear()
            await self._empty.wait()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    @property
    def body_bytes(self) -> int:
        """What all bodies in flight take."""
        return sum(room.used_bytes for room in self.rooms)

    def admit(self, connection: "_Connection") -> bool:
        """Whether there is room for one more connection; an older one may have to give way."""
        limit = self.limits.connections_per_address
        if limit and self._addresses[connection.address] >= limit:
            return self._overcrowded(f"{limit} connections from one address")
        if len(self._connections) >= self.limits.connections:
            oldest = next(iter(self._expendable), None)
            self._overcrowded(f"{len(self._connections)} connections")
            if oldest is None:
                return False
            oldest.abort()
            self.remove(oldest)
        self._connections.add(connection)
        self._addresses[connection.address] += 1
        self._expendable[connection] = None
        return True

    def _overcrowded(self, found: str) -> bool:
        self.refuse(WireError(f"there are already {found}", status=503, reason="too_many_connections"))
        return False

    def keep(self, connection: "_Connection") -> None:
        """Notes that a connection gives way to none."""
        self._expendable.pop(connection, None)

    def spare(self, connection: "_Connection") -> None:
        """Notes that a connection may give way."""
        self._expendable[connection] = None

    def remove(self, connection: "_Connection") -> None:
        """Forgets a connection that has ended."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._expendable.pop(connection, None)
            self._addresses[connection.address] -= 1
            if not self._addresses[connection.address]:
                del self._addresses[connection.address]
        if not self._connections:
            self._empty.set()


class _Connection(asyncio.BufferedProtocol):
    """One connection, from its acceptance to its end: headers, body, answer, and again."""

    def __init__(self, server: HttpServer) -> None:
        self.address = ""
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._arrival_s = 0.0
        self._idle = False
        self._paused = False
        self._keep_alive = False
        self._ended = False  # whether the caller sends nothing more
        self._broken = False  # whether nothing more that comes in can be trusted
        self._hung_up = False
        self._discarded = 0
        self._start_head()

    # --- the event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for a request."""
        self._transport = cast(asyncio.Transport, transport)
        self.address = (transport.get_extra_info("peername") or ("",))[0]
        if self._server.closing or not self._server.admit(self):
            self._transport.abort()
        else:
            self._arm(self._limits.head_timeout_s, self._late_head)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        # No more comes along with the headers than they may take themselves.
        return self._server.receive_buffer if self._request is not None else self._server.head_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parses what came in."""
        if self._hung_up or self._broken:
            self._discard(nbytes)
            return
        if self._idle:
            self._idle = False
            self._arm(self._limits.head_timeout_s, self._late_head)
        if self._request is None and not self._head_received:
            self._arrival_s = self._loop.time()
        try:
            self._parser.feed_data(self._server.receive_buffer[:nbytes])
            if self._request is None:
                self._head_received += nbytes
                self._check_head(self._head_received)
        except httptools.HttpParserError as err:
            cause = err.__context__
            self._break(
                cause if isinstance(cause, WireError) else WireError(f"no HTTP: {err}", reason="malformed_http")
            )
        except WireError as err:
            self._break(err)
        if self._request is not None and not (self._request.complete or self._request.wanted):
            self._pause(paused=True)

    def eof_received(self) -> bool:
        """Whether the connection stays open for the answer to a request that is complete."""
        if self._request is None or self._hung_up:
            return False
        self._keep_alive = False
        self._ended = True
        self._request.fail(_hung_up())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what was going on."""
        self._disarm()
        self._hung_up = True
        if self._request is not None:
            self._request.fail(_hung_up())
        self._server.remove(self)

    # --- the parser's side

    def on_message_begin(self) -> None:
        if self._request is not None:
            raise WireError("next request came before the answer to the last", reason="pipelined")

    def on_url(self, url: bytes) -> None:
        self._check_head(len(self._target) + len(url))
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_parsed += len(name) + len(value)
        self._check_head(self._head_parsed)
        if self._request is not None:  # a trailer, of which nobody may mistake anything for a header
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():
            raise WireError("only HTTP/1.1 is spoken here", reason="upgrade")
        self._disarm()
        self._keep_alive = self._parser.should_keep_alive()
        self._request = Request(
            self,
            method=self._parser.get_method().decode("latin-1"),
            target=self._target.decode("latin-1"),
            headers=self._headers,
            arrival_s=self._arrival_s,
            rooms=self._server.rooms,
            limits=self._limits,
        )
        self._task = self._loop.create_task(self._respond(self._request))

    def on_chunk_header(self) -> None:
        if self._request is not None:
            self._request.count_chunk()

    def on_body(self, body: bytes) -> None:
        if self._request is not None:
            self._request.receive(body)

    def on_message_complete(self) -> None:
        if self._request is not None:
            self._request.finish()

    # --- the request's side

    @property
    def answers(self) -> bool:
        """Whether a request is on its way."""
        return self._request is not None

    def trust(self) -> None:
        """Keeps the connection whatever happens around it, until the answer has left."""
        self._server.keep(self)

    def want_body(self) -> None:
        """Lets the body come in."""
        if self._request is None or self._request.complete:
            return
        if self._request.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._pause(paused=False)

    def abort(self) -> None:
        """Ends the connection at once, and what goes on for it."""
        self._hung_up = True
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()

    # --- between them

    async def _respond(self, request: Request) -> None:
        try:
            reply = await self._server.handler(request)
        except WireError as err:
            reply = self._server.refuse(err)
        except Exception:
            logger.exception("unforeseen error in a handler")
            reply = Reply(status=500, body=b'{"message": "internal error"}', keep_alive=False)
        finally:
            request.release()
        self._send(reply, complete=request.complete)

    def _send(self, reply: Reply, *, complete: bool) -> None:
        """Sends an answer, then waits for the next request or hangs up."""
        self._request = None
        if self._hung_up:
            return
        keep_alive = reply.keep_alive and self._keep_alive and complete and not self._server.closing
        self._transport.write(reply.encode(keep_alive=keep_alive))
        if keep_alive:
            self._idle = True
            self._start_head()
            self._server.spare(self)
            self._arm(self._limits.idle_timeout_s, self.abort)
        else:
            self._hang_up(complete=complete)

    def _hang_up(self, *, complete: bool) -> None:
        """Ends the connection so that a caller who is still sending gets to read the answer.

        Closing a socket with unread bytes resets the connection, and the answer may be lost.
        """
        self._hung_up = True
        self._server.spare(self)
        self._arm(_LINGER_S, self._transport.abort)
        if complete or self._ended:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._pause(paused=False)

    def _discard(self, count: int) -> None:
        self._discarded += count
        if self._discarded > _LINGER_BYTES:
            self._transport.abort()

    def _break(self, error: WireError) -> None:
        """Refuses what cannot be parsed; a request that is complete still gets its answer."""
        self._broken = True
        self._keep_alive = False
        if self._request is None:
            self._disarm()
            self._send(self._server.refuse(error), complete=False)
        elif self._request.complete:
            self._server.refuse(error)
        else:
            self._request.fail(error)

    def _late_head(self) -> None:
        error = WireError(
            f"headers were not complete after {self._limits.head_timeout_s:g} s", status=408, reason="slow_headers"
        )
        self._break(error)

    def _start_head(self) -> None:
        self._head_received = self._head_parsed = 0
        self._target = b""
        self._headers: dict[str, str] = {}

    def _check_head(self, count: int) -> None:
        if count > self._limits.head_bytes:
            raise WireError(
                f"request line and headers have more than {self._limits.head_bytes} bytes",
                status=431,
                reason="large_headers",
            )

    def _pause(self, *, paused: bool) -> None:
        if paused != self._paused and not self._transport.is_closing():
            self._paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def _arm(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self._loop.call_later(delay_s, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _hung_up() -> WireError:
    return WireError("caller hung up before the body was complete", reason="disconnected")
