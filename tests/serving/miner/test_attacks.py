"""What strangers and thieves may send: a real miner process is asked, and must refuse, count and stay small."""

import base64
import contextlib
import io
import json
import random
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bittensor_wallet import Keypair
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from streetvision.subnet import btauth
from tests.serving.miner.predictors import channel_model, start

# Fixtures come from the conftest.py beside this file.
ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
CHARLIE = Keypair.create_from_uri("//Charlie")  # registered without a permit
EVE = Keypair.create_from_uri("//Eve")  # a stranger
MEMORY_MB = 50.0
MIB = 1024 * 1024


@dataclass
class Target:
    """A miner process under attack, and what it counted before."""

    process: Any
    before: dict[str, float]

    def request(self, **changes: Any) -> tuple[dict[str, str], bytes]:
        return self.process.validator.request(**changes)

    def send(self, headers: dict[str, str], body: bytes) -> int:
        return self.process.validator.send(headers, body).status_code

    def refused(self) -> dict[str, float]:
        """How many requests were refused since then, by reason."""
        counts = {reason: count - self.before.get(reason, 0) for reason, count in self.process.refused().items()}
        return {reason: count for reason, count in counts.items() if count}

    def connect(self, *, address: str = "127.0.0.1", timeout_s: float = 10) -> socket.socket:
        port = self.process.started["port"]
        return socket.create_connection(("127.0.0.1", port), timeout=timeout_s, source_address=(address, 0))

    def talk(self, data: bytes) -> int:
        """The status with which raw bytes are answered, 0 where the connection ends without one."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            return status(connection)


def status(connection: socket.socket) -> int:
    """The status of the next answer on a connection, 0 where it ends without one."""
    with contextlib.suppress(ConnectionError):
        head = connection.recv(4096)
        if head:
            return int(head.split(b" ", 2)[1])
    return 0


@pytest.fixture(scope="module")
def memory_before_mb(shared_process: Any) -> float:
    """What the miner took before the first attack."""
    assert shared_process.validator.ask().status_code == 200
    return shared_process.memory_mb()


@pytest.fixture
def target(shared_process: Any, memory_before_mb: float, predictor: Any) -> Iterator[Target]:
    """The module's miner, which must be alive, willing and small after this attack and all before it."""
    yield Target(shared_process, shared_process.refused())
    assert shared_process.popen.poll() is None
    assert shared_process.memory_mb() - memory_before_mb < MEMORY_MB
    assert shared_process.validator.ask().json()["prediction"] == 0.77
    unforeseen = [event for event in shared_process.events() if "traceback" in event]
    assert unforeseen == []


def head_of(headers: dict[str, str], *more: str) -> bytes:
    lines = ["POST /ImageSynapse HTTP/1.1", "host: miner", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join([*lines, *more]) + "\r\n\r\n").encode("latin-1")


# --- headers that lie


def test_unsigned(target: Target):
    headers, body = target.request()
    del headers["bt_header_dendrite_signature"]
    assert target.send(headers, body) == 401
    assert target.refused() == {"unsigned": 1}


@pytest.mark.parametrize(
    "signature", ["", "0x", "0x00", "zz", "0x" + "00" * 64, "0x" + "ff" * 64, "0x" + "00" * 10_000]
)
def test_no_signature_that_is_one(target: Target, signature: str):
    headers, body = target.request()
    answer = target.send(headers | {"bt_header_dendrite_signature": signature}, body)
    assert answer in (400, 401, 431)
    assert sum(target.refused().values()) == 1


def test_signature_of_an_ed25519_key_with_the_same_seed(target: Target):
    other = Keypair.create_from_uri("//Alice", crypto_type=0)
    assert target.send(*target.request(sign=other.sign)) == 401
    assert target.refused() == {"bad_signature": 1}


def test_for_another_receiver(target: Target):
    assert target.send(*target.request(receiver=EVE.ss58_address)) == 401
    assert target.refused() == {"other_receiver": 1}


def test_for_another_receiver_relabelled_for_us(target: Target):
    headers, body = target.request(receiver=EVE.ss58_address)
    assert target.send(headers | {"bt_header_axon_hotkey": BOB.ss58_address}, body) == 401
    assert target.refused() == {"bad_signature": 1}


def test_replay(target: Target):
    request = target.request()
    assert [target.send(*request) for _ in range(3)] == [200, 401, 401]
    assert target.refused() == {"replay": 2}


def test_replay_while_the_original_is_being_answered(target: Target, predictor: Any):
    predictor.delay_s = 0.3
    request = target.request()
    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(lambda _: target.send(*request), range(8)))
    assert answers == [200, *[401] * 7]


def test_nonce_a_year_ahead(target: Target):
    assert target.send(*target.request(nonce_ns=time.time_ns() + 365 * 86_400 * 10**9)) == 401
    assert target.refused() == {"future_nonce": 1}


def test_sixty_seconds_old_with_a_huge_timeout(target: Target):
    assert target.send(*target.request(nonce_ns=time.time_ns() - 60 * 10**9, timeout_s=1e6)) == 401
    assert target.refused() == {"stale_nonce": 1}


@pytest.mark.parametrize(("caller", "reason"), [(EVE, "unregistered"), (CHARLIE, "no_permit")])
def test_callers_who_may_not_ask(target: Target, caller: Keypair, reason: str):
    assert target.send(*target.request(keypair=caller)) == 403
    assert target.refused() == {reason: 1}


def test_swapped_body_is_taken_on_the_old_wire_and_marked(target: Target, predictor: Any):
    headers, _ = target.request(image=b"the true picture")
    _, swapped = target.request(image=b"another picture")
    counted = target.process.counts()["streetvision_miner_unauthenticated_bodies_total"]
    assert target.send(headers, swapped) == 200
    assert predictor.pictures()[-1] == b"another picture"
    assert target.process.counts()["streetvision_miner_unauthenticated_bodies_total"] == counted + 1


def test_swapped_body_is_refused_where_the_signature_covers_it(target: Target, predictor: Any):
    def signed(body: bytes) -> dict[str, str]:
        return btauth.build_headers(
            body,
            target="/ImageSynapse",
            sender=ALICE.ss58_address,
            receiver=BOB.ss58_address,
            nonce_ns=time.time_ns(),
            sign=ALICE.sign,
        )

    body, swapped = (json.dumps({"image": base64.b64encode(image).decode()}).encode() for image in (b"true", b"other"))
    counted = target.process.counts()["streetvision_miner_unauthenticated_bodies_total"]
    assert target.send(signed(body), body) == 200
    assert target.send(signed(body), swapped) == 401
    assert target.refused() == {"bad_signature": 1}
    assert predictor.pictures()[-1] == b"true"
    assert target.process.counts()["streetvision_miner_unauthenticated_bodies_total"] == counted


# --- sizes and speeds


def test_200_mb_declared(target: Target):
    headers, body = target.request()
    begun = time.monotonic()
    with target.connect() as connection:
        connection.sendall(head_of(headers, "content-length: 200000000") + body)
        assert status(connection) == 413
    assert time.monotonic() - begun < 1
    assert target.refused() == {"too_large": 1}


def test_200_mb_sent_in_chunks_by_a_validator(target: Target):
    headers, _ = target.request()
    piece = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    with target.connect() as connection:
        connection.sendall(head_of(headers, "transfer-encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(200_000_000 // 0x10000):
                connection.sendall(piece)
        assert status(connection) in (413, 0)
    assert target.refused() == {"too_large": 1}


def test_four_times_200_mb_to_the_route_that_took_2_gb(target: Target):
    headers, _ = target.request(keypair=EVE)
    head = head_of(headers, "content-length: 200000000").replace(b"/ImageSynapse", b"/Synapse")

    def push(_: int) -> int:
        with target.connect() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(head)
                for _ in range(200):
                    connection.sendall(bytes(1_000_000))
            return status(connection)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(push, range(4))) <= {404, 0}
    assert target.refused() == {"not_found": 4}


@pytest.mark.parametrize(("keypair", "reason"), [(ALICE, "too_many_chunks"), (EVE, "unregistered")])
def test_a_million_tiny_chunks(target: Target, keypair: Keypair, reason: str):
    headers, _ = target.request(keypair=keypair)
    with target.connect() as connection:
        connection.sendall(head_of(headers, "transfer-encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"1\r\na\r\n" * 1000)
        assert status(connection) in (413, 403, 0)
    assert target.refused() == {reason: 1}


def test_slow_headers(start_process: Callable[..., Any]):
    target = Target(start_process(HEAD_TIMEOUT_S="0.5"), {})
    with target.connect() as connection:
        connection.sendall(b"POST /ImageSynapse HTTP/1.1\r\nhost: miner\r\nx-slow: ")
        assert status(connection) == 408
    assert target.refused() == {"slow_headers": 1}


def test_slow_body(start_process: Callable[..., Any]):
    target = Target(start_process(BODY_TIMEOUT_S="0.5"), {})
    headers, body = target.request()
    with target.connect() as connection:
        connection.sendall(head_of(headers, f"content-length: {len(body)}") + body[:-1])
        assert status(connection) == 408
    assert target.refused() == {"slow_body": 1}


def test_headers_without_end(target: Target):
    with target.connect() as connection:
        connection.sendall(b"POST /ImageSynapse HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(100_000):
                connection.sendall(b"x-%d: y\r\n" % number)
        assert status(connection) in (431, 0)
    assert target.refused() == {"large_headers": 1}


@pytest.mark.slow
@pytest.mark.parametrize("per_address", ["64", "0"])  # 0: behind a load balancer all callers have one address
def test_300_half_open_connections_while_challenges_go_on(start_process: Callable[..., Any], per_address: str):
    process = start_process(CONNECTIONS_PER_ADDRESS=per_address)
    target = Target(process, {})
    memory_mb = process.memory_mb()
    with contextlib.ExitStack() as stack:
        held: list[socket.socket] = []
        for _ in range(300):
            held.append(stack.enter_context(target.connect(address="127.0.0.2" if per_address != "0" else "127.0.0.1")))
            with contextlib.suppress(ConnectionError):
                held[-1].sendall(b"POST /ImageSynapse HTTP/1.1\r\nhost: miner\r\nx-slow: ")
        begun = time.monotonic()
        slowest_s = 0.0
        while time.monotonic() - begun < 7:
            asked = time.monotonic()
            assert process.validator.ask().status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - asked)
            time.sleep(0.05)
        assert slowest_s < 2
        answers = [status(connection) for connection in held]
    admitted = 300 if per_address == "0" else 64
    assert answers.count(408) == admitted
    assert answers.count(0) == 300 - admitted
    expected = {"slow_headers": admitted, "too_many_connections": 300 - admitted}
    assert target.refused() == {reason: count for reason, count in expected.items() if count}
    assert process.memory_mb() - memory_mb < MEMORY_MB


def test_a_flood_of_2000_connections(target: Target):
    """More than the miner takes at all, from many addresses."""
    held: list[socket.socket] = []
    for number in range(2000):
        with contextlib.suppress(ConnectionError):
            held.append(target.connect(address=f"127.0.1.{number % 50 + 1}"))
    assert target.process.validator.ask().status_code == 200
    assert target.refused()["too_many_connections"] >= 2000 - 1024
    for connection in held:
        connection.close()


def test_pipelined_requests(target: Target):
    headers, body = target.request()
    one = head_of(headers, f"content-length: {len(body)}") + body
    assert target.talk(one * 20) == 200
    assert target.refused() == {"pipelined": 1}


# --- bodies that are none


def deep(levels: int) -> bytes:
    return b'{"image": ' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "bad_json"),
        (b'{"image": "/9j/"', "bad_json"),
        (deep(10_000), "bad_json"),
        (deep(500), "no_image"),
        (b'{"image": NaN}', "bad_json"),
        (b'{"image": "/9j/", "prediction": NaN, "timeout": Infinity}', "bad_json"),
        (b'{"image": "/9j/", "image": 7}', "no_image"),
        (b'{"image": ["/9j/"]}', "no_image"),
        (b"{" + b",".join(b'"k%d":1' % number for number in range(150_000)) + b"}", "no_image"),
        (b"[" + b"{}," * 600_000 + b"{}]", "no_image"),
        (b'{"image": "data:image/jpeg;base64,/9j/"}', "bad_base64"),
        (b'{"image": "/9j"}', "bad_base64"),
        (b'{"image": " /9j/"}', "bad_base64"),
        (b'{"image": "/9j/\\n"}', "bad_base64"),
        (b'{"image": "\\ud800"}', "bad_json"),
        (b'{"image": "\\u0000AAA"}', "bad_base64"),
        (b"\xef\xbb\xbf" + b'{"image": "/9j/"}', "bad_json"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else value,
)
def test_bodies_that_hold_no_picture(target: Target, body: bytes, reason: str):
    headers, _ = target.request()
    assert target.send(headers, body) == 400
    assert target.refused() == {reason: 1}


def test_duplicate_keys_count_as_for_the_stock_axon(target: Target, predictor: Any):
    headers, _ = target.request()
    assert target.send(headers, b'{"image": "AAAA", "image": "/9j/"}') == 200
    assert predictor.pictures()[-1] == b"\xff\xd8\xff"


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_the_limit_of_a_body_is_exact(target: Target, excess: int):
    headers, _ = target.request()
    frame = b'{"image": "/9j/", "x": ""}'
    body = frame[:-2] + b"a" * (2 * MIB - len(frame) + excess) + frame[-2:]
    assert target.send(headers, body) == (413 if excess > 0 else 200)


# --- pictures that are none: the miner passes them on untouched


def jpeg(width: int = 224, height: int = 224) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def png_bomb(side: int) -> bytes:
    """A black picture of `side` x `side`, one bit a pixel, in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + (side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zip_after(picture: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("run.sh", "#!/bin/sh\n")
    return picture + file.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "png bomb": lambda: png_bomb(30_000),
    "65,500 x 1": lambda: jpeg(65_500, 1),
    "1 x 65,500": lambda: jpeg(1, 65_500),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "jpeg and zip": lambda: zip_after(jpeg()),
    "gif and script": lambda: b"GIF89a/*" + bytes(100) + b"*/=1;alert(1)//;",
    "jpeg and html": lambda: jpeg()[:2] + b"\xff\xfe\x00\x20<script>alert(document.cookie)" + jpeg()[2:],
    "one byte": lambda: b"\xff",
    "random": lambda: random.Random(0).randbytes(10_000),
    "path": lambda: b"/etc/passwd",
    "url": lambda: b"http://169.254.169.254/latest/meta-data/",
}


@pytest.fixture(scope="module")
def hostile() -> dict[str, bytes]:
    return {name: make() for name, make in HOSTILE.items()}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_edge_passes_hostile_pictures_on_untouched(
    target: Target, predictor: Any, hostile: dict[str, bytes], name: str
):
    assert target.send(*target.request(image=hostile[name])) == 200
    assert predictor.pictures()[-1] == hostile[name]


def test_the_edge_passes_every_truncation_of_a_picture_on_untouched(target: Target, predictor: Any):
    picture = jpeg()
    cuts = range(64, len(picture), 64)
    for length in cuts:
        assert target.send(*target.request(image=picture[:length])) == 200
    assert [len(image) for image in predictor.pictures()[-len(cuts) :]] == list(cuts)


@pytest.fixture
def real_predictor(tmp_path: Path) -> Iterator[str]:
    """The address of a real predictor over a real model, small as it is."""
    process = start(channel_model(tmp_path / "model", channel=0), tmp_path / "predictor.log")
    try:
        process.wait_until_ready()
        yield process.url
    finally:
        process.stop()


@pytest.mark.slow  # kserve takes seconds to start
def test_a_real_predictor_answers_or_refuses_hostile_pictures_and_the_miner_goes_on(
    real_predictor: str, start_process: Callable[..., Any], hostile: dict[str, bytes]
):
    process = start_process(PREDICTOR_URL=real_predictor)
    memory_mb = process.memory_mb()
    picture = jpeg()

    def prediction(image: bytes) -> float:
        reply = process.validator.ask(image=image)
        assert reply.status_code == 200
        return reply.json()["prediction"]

    assert 0 <= prediction(picture) <= 1
    answers = {name: prediction(image) for name, image in hostile.items()}
    assert {name for name, answer in answers.items() if answer == -1} >= {"png bomb", "svg", "random", "one byte"}
    assert all(answer == -1 or 0 <= answer <= 1 for answer in answers.values())
    for length in range(64, len(picture), 64):
        answer = prediction(picture[:length])
        assert answer == -1 or 0 <= answer <= 1
    assert 0 <= prediction(picture) <= 1
    assert process.memory_mb() - memory_mb < MEMORY_MB


# --- whatever else a machine comes up with

anything = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=200)
keys = st.text(max_size=10) | st.just("image")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10) | st.just("image"), inner, max_size=4)
    ),
    max_leaves=20,
)
names = ["hotkey", "uuid", "nonce", "signature", "version", "ip"]
legacy_headers = [*(f"bt_header_dendrite_{name}" for name in names), "bt_header_axon_hotkey", "computed_body_hash"]
btauth_headers = [f"x-bittensor-{name}" for name in ("version", "hotkey", "receiver", "nonce", "crypto", "signature")]
http_headers = ["timeout", "name", "content-length", "transfer-encoding", "connection", "expect", "host", "upgrade"]


@pytest.mark.fuzz
@given(st.dictionaries(st.sampled_from([*legacy_headers, *btauth_headers, *http_headers]), anything, min_size=1))
@example({"content-length": "-1"})
@example({"transfer-encoding": "chunked, chunked"})
@example({"bt_header_dendrite_nonce": "9" * 5000})
def test_fuzzed_headers(target: Target, changes: dict[str, str]):
    headers, body = target.request()
    headers = headers | {"content-length": str(len(body))} | changes
    assert 0 <= target.talk(head_of(headers) + body) < 500


@pytest.mark.fuzz
@given(st.binary(max_size=500))
def test_fuzzed_bytes(target: Target, data: bytes):
    assert 0 <= target.talk(data) < 500


pieces_of_http = st.sampled_from(
    [
        *(b"POST /ImageSynapse HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n", b"\r\n", b"a: b\r\n", b"\x00"),
        *(b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"),
    ]
)


@pytest.mark.fuzz
@given(st.lists(pieces_of_http | st.binary(max_size=20), max_size=20))
def test_fuzzed_http(target: Target, pieces: list[bytes]):
    assert 0 <= target.talk(b"".join(pieces)) < 500


@pytest.mark.fuzz
@given(st.binary(max_size=2000) | json_values.map(lambda value: json.dumps(value).encode()))
def test_fuzzed_bodies(target: Target, body: bytes):
    headers, _ = target.request()
    assert target.send(headers, body) in (200, 400)


@pytest.mark.fuzz
@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda image: base64.b64encode(image).decode()))
def test_fuzzed_base64(target: Target, text: str):
    headers, _ = target.request()
    assert target.send(headers, json.dumps({"image": text}).encode()) in (200, 400)
