import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from serving.miner.http_server import HttpServer, Limits, Reply, Request
from serving.miner.server import listen
from streetvision.errors import WireError

KIB = 1024
Handler = Callable[[Request], Awaitable[Reply]]


async def echo(request: Request) -> Reply:
    """Says how long the body was."""
    request.limit_body(100 * KIB)
    body = await request.body()
    return Reply(status=200, body=str(len(body)).encode(), content_type="text/plain")


@dataclass
class Caller:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, text: str | bytes) -> None:
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def status(self) -> int:
        """The status of the next answer, whose body is skipped."""
        return (await self.answer())[0]

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.strip().split("\r\n")
        headers = dict(one.split(": ", 1) for one in lines)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(line.split()[1]), headers, body

    async def ended(self) -> bool:
        """Whether the server ends the connection, within seconds and without another word."""
        try:
            async with asyncio.timeout(3):
                return await self.reader.read() == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


@dataclass
class Running:
    server: HttpServer
    port: int
    refused: list[str]
    callers: list[Caller] = field(default_factory=list)

    async def call(self, text: str | bytes = b"", *, address: str = "127.0.0.1") -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0)))
        self.callers.append(caller)
        if text:
            await caller.send(text)
        return caller


@asynccontextmanager
async def serving(handler: Handler = echo, **changes: Any) -> AsyncIterator[Running]:
    refused: list[str] = []

    def refuse(err: WireError) -> Reply:
        refused.append(err.reason)
        return Reply(status=err.status, body=err.message.encode(), keep_alive=False)

    limits = {"head_timeout_s": 0.2, "body_timeout_s": 0.2, "idle_timeout_s": 0.4}
    server = HttpServer(handler, refuse, limits=Limits(**(limits | changes)))
    listener = listen("127.0.0.1", 0)
    await server.listen(listener)
    running = Running(server, listener.getsockname()[1], refused)
    try:
        yield running
    finally:
        await server.close(grace_s=0.5)
        for caller in running.callers:
            caller.writer.close()
            with contextlib.suppress(ConnectionError):
                await caller.writer.wait_closed()
        assert server.connections == 0
        assert server.body_bytes == 0


def post(body: str = "", *headers: str, length: int | None = None) -> str:
    lines = ["POST / HTTP/1.1", "host: miner", f"content-length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines) + "\r\n\r\n" + body


# --- requests


async def test_one_connection_carries_many_requests():
    async with serving() as running:
        caller = await running.call()
        for length in (0, 5, 70_000):
            await caller.send(post("a" * length))
            status, headers, body = await caller.answer()
            assert (status, body) == (200, str(length).encode())
            assert "connection" not in headers
            assert headers["date"].endswith("GMT")


async def test_a_request_may_come_byte_by_byte():
    async with serving(head_timeout_s=2, body_timeout_s=2) as running:
        caller = await running.call()
        for byte in post("abc", "name: value"):
            await caller.send(byte)
            await asyncio.sleep(0.001)
        assert (await caller.answer())[2] == b"3"


async def test_a_request_arrives_with_its_first_byte():
    arrivals: list[float] = []

    async def handler(request: Request) -> Reply:
        arrivals.append(asyncio.get_running_loop().time() - request.arrival_s)
        return await echo(request)

    async with serving(handler) as running:
        caller = await running.call(post("abc"))
        assert await caller.status() == 200
        for part in post("abc").partition("host"):
            await asyncio.sleep(0.05)
            await caller.send(part)
        assert await caller.status() == 200
    assert arrivals[0] < 0.05 < 0.09 < arrivals[1]


async def test_headers_are_in_lower_case_and_repeated_ones_are_joined():
    seen: dict[str, str] = {}

    async def handler(request: Request) -> Reply:
        seen.update(request.headers)
        return Reply(status=200, body=request.target.encode())

    async with serving(handler) as running:
        caller = await running.call("GET /path?query HTTP/1.1\r\nHost: x\r\nA-Name:  one \r\na-name: two\r\n\r\n")
        assert (await caller.answer())[2] == b"/path?query"
    assert seen == {"host": "x", "a-name": "one, two"}


async def test_a_chunked_body_is_put_together_and_its_trailers_change_no_header():
    seen: list[str] = []

    async def handler(request: Request) -> Reply:
        body = await request.body()
        seen.append(request.headers["name"])
        return Reply(status=200, body=body)

    async with serving(handler) as running:
        head = "POST / HTTP/1.1\r\nhost: x\r\nname: header\r\ntransfer-encoding: chunked\r\n\r\n"
        caller = await running.call(head + "3\r\nabc\r\n2\r\nde\r\n0\r\nname: trailer\r\n\r\n")
        assert (await caller.answer())[2] == b"abcde"
    assert seen == ["header"]


async def test_a_caller_who_asks_whether_to_send_is_told_so():
    async with serving() as running:
        caller = await running.call(post("", "expect: 100-continue", length=3))
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send("abc")
        assert (await caller.answer())[2] == b"3"


@pytest.mark.parametrize(("version", "header"), [("1.0", ""), ("1.1", "connection: close\r\n")])
async def test_a_caller_who_wants_one_answer_gets_one(version: str, header: str):
    async with serving() as running:
        caller = await running.call(f"GET / HTTP/{version}\r\nhost: x\r\n{header}\r\n")
        assert (await caller.answer())[1]["connection"] == "close"
        assert await caller.ended()


async def test_a_caller_who_stops_sending_still_reads_the_answer():
    async def slow(request: Request) -> Reply:
        await asyncio.sleep(0.1)
        return await echo(request)

    async with serving(slow) as running:
        caller = await running.call(post("abc"))
        caller.writer.write_eof()
        assert (await caller.answer())[2] == b"3"
        assert await caller.ended()


async def test_a_handler_that_breaks_is_one_error_and_the_server_goes_on(caplog: pytest.LogCaptureFixture):
    async def handler(request: Request) -> Reply:
        if request.target == "/break":
            raise RuntimeError("surprise")
        return await echo(request)

    async with serving(handler) as running:
        caller = await running.call("GET /break HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await caller.status() == 500
        assert await caller.ended()
        assert (await (await running.call(post("abc"))).answer())[2] == b"3"
    assert "surprise" in caplog.text


# --- what is no request


@pytest.mark.parametrize(
    "text",
    [
        "NONSENSE\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nname: a\x00b\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_hung_up_on(text: str):
    async with serving() as running:
        caller = await running.call(text)
        assert await caller.status() == 400
        assert running.refused == ["malformed_http"]
        assert await caller.ended()


async def test_an_upgrade_is_refused():
    async with serving() as running:
        caller = await running.call("GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert await caller.status() == 400
        assert running.refused == ["upgrade"]


async def test_a_broken_chunk_is_refused():
    async with serving() as running:
        caller = await running.call("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await caller.send("zz\r\nabc")
        assert await caller.status() == 400
        assert running.refused == ["malformed_http"]


async def test_of_two_requests_at_once_the_first_is_answered_and_the_connection_ends():
    async with serving() as running:
        caller = await running.call(post("abc") + post("abcd"))
        status, headers, body = await caller.answer()
        assert (status, headers["connection"], body) == (200, "close", b"3")
        assert await caller.ended()
        assert running.refused == ["pipelined"]


# --- limits of the headers


@pytest.mark.parametrize(
    "text",
    [
        "GET /" + "a" * 20 * KIB,
        "GET / HTTP/1.1\r\nname: " + "a" * 20 * KIB,
        "GET / HTTP/1.1\r\n" + "a" * 20 * KIB,
        "GET / HTTP/1.1\r\n" + "a: b\r\n" * 5 * KIB,
        "GET / HTTP/1.1\r\nname: " + "a" * 20 * KIB + "\r\n\r\n",
        "\r\n" * 10 * KIB,
    ],
)
async def test_endless_headers_are_refused(text: str):
    async with serving() as running:
        caller = await running.call()
        for start in range(0, len(text), 5_000):
            with contextlib.suppress(ConnectionError):
                await caller.send(text[start : start + 5_000])
        assert await caller.status() == 431
        assert running.refused == ["large_headers"]


@pytest.mark.parametrize("text", ["", "GET / HTTP/1.1\r\nhost: x\r\n", "G"])
async def test_slow_headers_are_refused(text: str):
    async with serving() as running:
        begun = time.monotonic()
        caller = await running.call(text)
        assert await caller.status() == 408
        assert 0.2 <= time.monotonic() - begun < 2
        assert running.refused == ["slow_headers"]
        assert await caller.ended()


async def test_bytes_now_and_then_do_not_help_slow_headers():
    async with serving() as running:
        begun = time.monotonic()
        caller = await running.call("GET / HTTP/1.1\r\n")
        sending = asyncio.create_task(trickle(caller, "a: b\r\n"))
        assert await caller.status() == 408
        assert time.monotonic() - begun < 2
        sending.cancel()


async def trickle(caller: Caller, text: str) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await caller.send(text)
            await asyncio.sleep(0.03)


async def test_a_later_request_has_the_same_time_for_its_headers():
    async with serving() as running:
        caller = await running.call(post("abc"))
        assert await caller.status() == 200
        await asyncio.sleep(0.25)  # idle for longer than headers may take
        await caller.send("GET / HTT")
        begun = time.monotonic()
        assert await caller.status() == 408
        assert 0.15 <= time.monotonic() - begun < 2


async def test_an_idle_connection_is_closed_without_a_word():
    async with serving() as running:
        caller = await running.call(post("abc"))
        assert await caller.status() == 200
        begun = time.monotonic()
        assert await caller.ended()
        assert 0.3 <= time.monotonic() - begun < 2
        assert running.refused == []


# --- limits of the body


@pytest.mark.parametrize("length", [100 * KIB + 1, 10**9])
async def test_a_body_declared_too_long_is_refused_before_it_comes(length: int):
    async with serving() as running:
        caller = await running.call(post(length=length))
        assert await caller.status() == 413
        assert running.refused == ["too_large"]


async def test_a_caller_in_the_middle_of_a_long_body_gets_to_read_the_refusal():
    async with serving() as running:
        caller = await running.call(post(length=1_000_000))
        for _ in range(3):  # a connection that was reset would not take the second
            await asyncio.sleep(0.05)
            await caller.send(b"a" * 10_000)
        assert running.refused == ["too_large"]
        assert await caller.status() == 413
        assert await caller.ended()


async def test_a_chunked_body_is_refused_where_it_grows_too_long():
    async with serving() as running:
        caller = await running.call("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(11):
            await caller.send(b"2800\r\n" + b"a" * 0x2800 + b"\r\n")
        assert await caller.status() == 413
        assert running.refused == ["too_large"]


async def test_a_body_in_too_many_chunks_is_refused():
    async with serving(chunks=100) as running:
        head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        assert await (await running.call(head + "1\r\na\r\n" * 100 + "0\r\n\r\n")).status() == 413
        assert await (await running.call(head + "1\r\na\r\n" * 99 + "0\r\n\r\n")).status() == 200
        assert running.refused == ["too_many_chunks"]


async def test_slow_headers_leave_the_less_time_for_the_body():
    async with serving(head_timeout_s=1.0, body_timeout_s=1.0) as running:
        whole = post("a", length=1000)
        begun = time.monotonic()
        caller = await running.call(whole[:10])
        await asyncio.sleep(0.7)
        await caller.send(whole[10:])
        assert await caller.status() == 408
        assert 0.9 <= time.monotonic() - begun < 1.5
        assert running.refused == ["slow_body"]


async def test_a_slow_body_is_refused_however_it_trickles():
    async with serving() as running:
        begun = time.monotonic()
        caller = await running.call(post("a", length=1000))
        sending = asyncio.create_task(trickle(caller, "a"))
        assert await caller.status() == 408
        assert 0.2 <= time.monotonic() - begun < 2
        assert running.refused == ["slow_body"]
        sending.cancel()


async def test_a_caller_who_hangs_up_in_the_middle_is_counted():
    async with serving() as running:
        caller = await running.call(post("a", length=1000))
        await asyncio.sleep(0.05)
        caller.writer.close()
        await asyncio.sleep(0.1)
        assert running.refused == ["disconnected"]
        assert running.server.connections == 0


async def test_a_body_that_nobody_asked_for_is_not_read():
    arrived, go = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Reply:
        arrived.set()
        await go.wait()
        return Reply(status=403, body=b"no", keep_alive=False)

    async with serving(handler) as running:
        caller = await running.call(post(length=50_000_000))
        sending = asyncio.create_task(caller.send(b"a" * 50_000_000))
        await arrived.wait()
        await asyncio.sleep(0.1)
        assert running.server.body_bytes <= 64 * KIB
        assert not sending.done()  # the socket is full, and stays so
        go.set()
        assert await caller.status() == 403
        with contextlib.suppress(ConnectionError):
            await sending


async def test_bodies_in_flight_share_one_room_and_give_it_back():
    go = asyncio.Event()

    async def handler(request: Request) -> Reply:
        request.trust()
        await request.body()
        await go.wait()
        return Reply(status=200, body=b"")

    async with serving(handler, bodies_bytes=25 * KIB) as running:
        first = [await running.call(post("a" * 10 * KIB)) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert running.server.body_bytes == 20 * KIB
        late = await running.call(post("a" * 10 * KIB))
        assert await late.status() == 503
        go.set()
        assert [await caller.status() for caller in first] == [200, 200]
        assert running.server.body_bytes == 0
        assert await (await running.call(post("a" * 10 * KIB))).status() == 200
        assert running.refused == ["busy"]


async def test_callers_who_have_proven_nothing_have_a_small_room_of_their_own():
    go = asyncio.Event()

    async def handler(request: Request) -> Reply:
        if request.target == "/proven":
            request.trust()
        request.limit_body(100 * KIB)
        await request.body()
        await go.wait()
        return Reply(status=200, body=b"")

    async with serving(handler, unproven_bytes=15 * KIB) as running:
        unproven = [await running.call(post("a" * 10 * KIB))]
        await asyncio.sleep(0.05)
        assert await (await running.call(post("a" * 10 * KIB))).status() == 503
        proven = await running.call(post("a" * 10 * KIB).replace("POST /", "POST /proven"))
        await asyncio.sleep(0.05)
        assert running.server.body_bytes == 20 * KIB
        go.set()
        assert (await unproven[0].status(), await proven.status()) == (200, 200)


async def test_bodies_that_wait_for_their_rest_give_way_to_one_that_comes():
    async def handler(request: Request) -> Reply:
        request.limit_body(100 * KIB)
        return Reply(status=200, body=b"%d" % len(await request.body()))

    async with serving(handler, unproven_bytes=35 * KIB, body_timeout_s=5) as running:
        stalled = [await running.call(post("a" * 20 * KIB)[: 10 * KIB]) for _ in range(3)]
        await asyncio.sleep(0.05)
        begun_s = time.monotonic()
        assert await (await running.call(post("a" * 20 * KIB))).status() == 200
        assert await stalled[0].status() == 503
        assert await stalled[1].status() == 503
        assert time.monotonic() - begun_s < 1
        assert running.refused == ["busy", "busy"]
        assert 9 * KIB < running.server.body_bytes <= 10 * KIB
    assert running.server.body_bytes == 0


# --- limits of connections


async def test_one_address_may_hold_only_so_many_connections():
    async with serving(connections_per_address=3, head_timeout_s=5) as running:
        held = [await running.call() for _ in range(3)]
        assert await (await running.call()).ended()
        assert running.refused == ["too_many_connections"]
        other = await running.call(post("abc"), address="127.0.0.2")
        assert await other.status() == 200
        held[0].writer.close()
        await asyncio.sleep(0.05)
        assert await (await running.call(post("abc"))).status() == 200


async def test_when_all_are_taken_the_oldest_that_has_proven_nothing_gives_way():
    async with serving(connections=3, head_timeout_s=5) as running:
        held = [await running.call("GET / HTTP/1.1\r\n") for _ in range(3)]
        await asyncio.sleep(0.05)
        newcomer = await running.call(post("abc"))
        assert await newcomer.status() == 200
        assert await held[0].ended()
        assert running.server.connections == 3
        await held[2].send("\r\n")
        assert await held[2].status() == 200
        assert running.refused == ["too_many_connections"]


async def test_neither_slow_bodies_nor_refused_callers_who_stay_keep_others_out():
    async with serving(connections=3, body_timeout_s=5) as running:
        for text in (post("a", length=1000), "NONSENSE\r\n\r\n", post(length=10**9)):
            await running.call(text)
        await asyncio.sleep(0.05)
        for _ in range(3):
            assert await (await running.call(post("abc"))).status() == 200
        assert sorted(running.refused)[-3:] == ["too_many_connections"] * 3


async def test_a_request_of_a_trusted_caller_never_gives_way():
    go = asyncio.Event()

    async def handler(request: Request) -> Reply:
        request.trust()
        await go.wait()
        return await echo(request)

    async with serving(handler, connections=2) as running:
        busy = [await running.call(post("abc")) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert await (await running.call()).ended()
        go.set()
        assert [await caller.status() for caller in busy] == [200, 200]


# --- the end


async def test_it_ends_when_what_has_arrived_is_answered():
    async def handler(request: Request) -> Reply:
        await asyncio.sleep(0.2)
        return await echo(request)

    async with serving(handler) as running:
        idle = await running.call()
        busy = await running.call(post("abc"))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(running.server.close(grace_s=5))
        assert await idle.ended()
        with pytest.raises(ConnectionRefusedError):
            await running.call()
        status, headers, _ = await busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(closing, 3)


async def test_it_ends_in_time_whatever_hangs():
    async def handler(request: Request) -> Reply:
        await asyncio.sleep(60)
        return await echo(request)

    async with serving(handler) as running:
        caller = await running.call(post("abc"))
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        await running.server.close(grace_s=0.2)
        assert 0.2 <= time.monotonic() - begun < 2
        assert await caller.ended()


async def test_other_limits_hold_for_what_comes_next():
    async with serving() as running:
        running.server.set_limits(Limits(bodies_bytes=10, unproven_bytes=10))
        assert await (await running.call(post("a" * 11))).status() == 503
        assert await (await running.call(post("a" * 10))).status() == 200
