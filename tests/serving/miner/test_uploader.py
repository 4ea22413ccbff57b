import base64
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving import logs
from serving.miner.spool import MIB, Spool
from serving.miner.uploader import Bucket, Uploader
from streetvision.errors import SettingsError, StorageError
from tests.ports import unused_url
from tests.serving.miner.entries import picture, sha256
from tests.serving.miner.s3 import (
    ACCESS_KEY,
    BUCKET,
    S3,
    SECRET_KEY,
    Misbehaving,
    Moto,
    Refuse,
    VersityGateway,
    use_keys,
)


@pytest.fixture(scope="module")
def moto_of_the_module() -> Iterator[Moto]:
    moto = Moto()
    moto.start()
    yield moto
    moto.close()


@pytest.fixture
def moto(moto_of_the_module: Moto, keys: None) -> Moto:
    """An S3 server with an empty bucket."""
    moto_of_the_module.clear()
    return moto_of_the_module


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    use_keys(monkeypatch)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", replica="miner-0")
    yield spool
    spool.close()


Start = Callable[..., Uploader]


@pytest.fixture
def start(spool: Spool) -> Iterator[Start]:
    """Uploaders of the spool to a server, ended when the test ends."""
    started: list[Uploader] = []

    def start(url: str, *, bucket: str = BUCKET, timeout_s: float = 10.0, pause_s: float = 0.05) -> Uploader:
        place = Bucket(bucket, endpoint_url=url, timeout_s=timeout_s)
        started.append(Uploader(spool, place, pause_s=pause_s, longest_pause_s=4 * pause_s))
        started[-1].start()
        return started[-1]

    yield start
    for uploader in started:
        uploader.close(wait_s=0.0)


def fill(spool: Spool, *segments: list[int]) -> dict[str, bytes]:
    """Closed segments with these pictures, and the objects that they are to become."""
    expected: dict[str, bytes] = {}
    for numbers in segments:
        images = {sha256(picture(number)): picture(number) for number in numbers}
        records = b"".join(json.dumps({"image_sha256": name}).encode() + b"\n" for name in images)
        spool.write(records, images)
        spool.rotate()
        name = spool.closed()[-1].name
        expected[f"segments/{name[:8]}/{name}.jsonl"] = records
        expected |= {f"images/{name[:2]}/{name}.jpg": data for name, data in images.items()}
    return expected


def wait_for(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def wait_until_empty(spool: Spool) -> None:
    wait_for(lambda: not [path for path in spool.folder.iterdir() if path.is_dir()])


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        json.loads(logs.JsonFormatter().format(record))["reason"]
        for record in caplog.records
        if record.getMessage() == "upload_failed"
    ]


def test_segments_and_their_pictures_reach_the_bucket_and_leave_the_spool(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, [1, 2, 3], [4])
    uploader = start(moto.url)
    wait_until_empty(spool)
    assert moto.objects() == expected
    assert (spool.segments, spool.size_bytes) == (0, 0)
    assert (uploader.sent, uploader.failures, uploader.spoilt) == (2, 0, 0)


def test_the_server_is_given_a_checksum_to_compare_and_to_keep(moto: Moto):
    Bucket(BUCKET, endpoint_url=moto.url).store("key", b"data")
    kept = moto.client.head_object(Bucket=BUCKET, Key="key", ChecksumMode="ENABLED")["ChecksumSHA256"]
    assert base64.b64decode(kept).hex() == sha256(b"data")


def test_a_prefix_stands_before_every_key(moto: Moto):
    Bucket(BUCKET, prefix="/predictions/a/", endpoint_url=moto.url).store("segments/x.jsonl", b"1\n")
    assert moto.objects() == {"predictions/a/segments/x.jsonl": b"1\n"}


def test_records_go_after_the_pictures_they_speak_of(moto: Moto, spool: Spool, start: Start):
    fill(spool, [1, 2, 3])
    start(moto.url)
    wait_until_empty(spool)
    put = [key.split("/")[0] for method, key in moto.requests if method == "PUT"]
    assert put == ["images", "images", "images", "segments"]


def test_the_same_picture_in_two_segments_is_sent_once(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, [1, 2], [1], [2, 1])
    start(moto.url)
    wait_until_empty(spool)
    put = [key for method, key in moto.requests if method == "PUT"]
    assert sorted(put) == sorted(expected)


def test_a_segment_that_was_sent_before_is_not_sent_again(moto: Moto, spool: Spool, start: Start):
    """As after a crash between the upload and the deletion."""
    expected = fill(spool, [1])
    for key, data in expected.items():
        Bucket(BUCKET, endpoint_url=moto.url).store(key, data)
    moto.requests.clear()
    start(moto.url)
    wait_until_empty(spool)
    assert moto.objects() == expected
    assert "PUT" not in {method for method, _ in moto.requests}


def test_what_is_written_meanwhile_is_sent_too(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, [1])
    start(moto.url)
    wait_until_empty(spool)
    expected |= fill(spool, [2])
    wait_until_empty(spool)
    assert moto.objects() == expected


def test_the_open_segment_is_left_alone(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, [1])
    spool.write(b"{}\n", {})
    start(moto.url)
    wait_for(lambda: spool.segments == 1)
    assert moto.objects() == expected


def test_while_the_server_is_down_everything_waits_and_then_goes(
    moto: Moto, spool: Spool, start: Start, caplog: pytest.LogCaptureFixture
):
    expected = fill(spool, [1, 2], [3])
    moto.stop()
    try:
        uploader = start(moto.url)
        wait_for(lambda: uploader.failures >= 5)
        assert (spool.segments, uploader.sent) == (2, 0)
    finally:
        moto.start()
    wait_until_empty(spool)
    assert moto.objects() == expected
    assert reasons(caplog) == [f"bucket `{BUCKET}` cannot be asked: EndpointConnectionError"], "one line a minute"


def test_a_server_that_fails_now_and_then_gets_everything_once(moto: Moto, spool: Spool, start: Start):
    chance = random.Random(5)

    def fail(method: str, key: str) -> None:
        if chance.random() < 0.3:
            raise Refuse(chance.choice([500, 503]))

    expected = fill(spool, *([number, number + 1, number + 2] for number in range(0, 24, 2)))
    moto.before = fail
    uploader = start(moto.url, pause_s=0.001)
    wait_until_empty(spool)
    moto.before = lambda _method, _key: None
    assert moto.objects() == expected
    assert uploader.failures > 5
    assert uploader.sent == 12


def test_after_a_failure_it_goes_on_where_it_was(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, list(range(10)))
    (segment,) = spool.closed()
    names = [file.stem for file in segment.pictures()]

    def fail(method: str, key: str) -> None:
        if names[6] in key:
            raise Refuse(503)

    moto.before = fail
    uploader = start(moto.url)
    wait_for(lambda: uploader.failures >= 2)
    assert [file.stem for file in segment.pictures()] == names[6:]
    moto.requests.clear()
    moto.before = lambda _method, _key: None
    wait_until_empty(spool)
    assert not {key for _, key in moto.requests} & {f"images/{name[:2]}/{name}.jpg" for name in names[:6]}
    assert moto.objects() == expected


def test_what_a_server_took_and_lost_stays_in_the_spool(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, [1])
    lost: list[str] = []

    def lose(method: str, key: str) -> None:
        if moto.requests[-2:] == [("PUT", key), ("HEAD", key)] and len(lost) < 3:
            lost.append(key)
            moto.client.delete_object(Bucket=BUCKET, Key=key)

    moto.before = lose
    uploader = start(moto.url)
    wait_until_empty(spool)
    assert moto.objects() == expected
    assert len(lost) == uploader.failures == 3


@pytest.mark.parametrize("other", [b"", b"shorter", bytes(1000)])
def test_an_object_that_is_not_what_it_should_be_is_replaced(moto: Moto, spool: Spool, start: Start, other: bytes):
    expected = fill(spool, [1])
    for key in expected:
        moto.client.put_object(Bucket=BUCKET, Key=key, Body=other)
    start(moto.url)
    wait_until_empty(spool)
    assert moto.objects() == expected


def test_one_segment_that_cannot_be_sent_holds_no_other_up(moto: Moto, spool: Spool, start: Start):
    fill(spool, [1], [2], [3], [4])
    poison = spool.closed()[1].name

    def refuse(method: str, key: str) -> None:
        if poison in key:
            raise Refuse(400)

    moto.before = refuse
    start(moto.url)
    wait_for(lambda: [segment.name for segment in spool.closed()] == [poison])
    moto.before = lambda _method, _key: None
    wait_until_empty(spool)
    assert len(moto.objects()) == 8


def test_a_picture_that_a_crash_cut_off_is_dropped_and_counted(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, [1, 2])
    name = sha256(picture(1))
    file = spool.closed()[0].folder / f"{name}.jpg"
    file.write_bytes(picture(1)[:500])
    uploader = start(moto.url)
    wait_until_empty(spool)
    del expected[f"images/{name[:2]}/{name}.jpg"]
    assert moto.objects() == expected
    assert (uploader.spoilt, uploader.failures) == (1, 0)


def test_a_segment_that_is_shed_while_it_is_sent_is_no_failure(moto: Moto, spool: Spool, start: Start):
    fill(spool, [1, 2])
    (segment,) = spool.closed()

    def shed(method: str, key: str) -> None:
        if method == "PUT":
            spool.remove(segment)

    moto.before = shed
    uploader = start(moto.url)
    wait_for(lambda: any(method == "PUT" for method, _ in moto.requests))
    moto.before = lambda _method, _key: None
    expected = fill(spool, [3])
    wait_until_empty(spool)
    assert expected.items() <= moto.objects().items()
    assert (uploader.sent, uploader.failures) == (1, 0)


def test_at_the_end_what_lies_there_is_sent(moto: Moto, spool: Spool, start: Start):
    expected = fill(spool, *([number] for number in range(10)))
    uploader = start(moto.url)
    uploader.close(wait_s=20)
    assert (moto.objects(), spool.segments) == (expected, 0)


def test_at_the_end_no_server_is_waited_for_any_longer(moto: Moto, spool: Spool, start: Start):
    fill(spool, list(range(100)))
    (segment,) = spool.closed()
    moto.before = lambda _method, _key: time.sleep(0.1)
    uploader = start(moto.url)
    begun = time.monotonic()
    uploader.close(wait_s=0.5)
    assert time.monotonic() - begun < 2
    assert 80 < len(segment.pictures()) <= 100


def test_at_the_end_a_server_that_is_down_is_asked_once_more(spool: Spool, start: Start, keys: None):
    fill(spool, [1])
    uploader = start(unused_url(), pause_s=60)
    wait_for(lambda: uploader.failures == 1)
    begun = time.monotonic()
    uploader.close(wait_s=20)
    assert time.monotonic() - begun < 5
    assert (uploader.failures, spool.segments) == (2, 1)


# --- servers that misbehave


@pytest.mark.parametrize("pieces", [0, 1_000_000])
def test_a_server_that_says_nothing_is_given_up_in_time(spool: Spool, start: Start, keys: None, pieces: int):
    spool.write(b"{}\n", {sha256(picture(1, 8 * MIB)): picture(1, 8 * MIB)})
    spool.rotate()
    with Misbehaving(pieces=pieces) as server:
        begun = time.monotonic()
        uploader = start(server.url, timeout_s=0.3)
        wait_for(lambda: uploader.failures == 2)
        assert 0.6 <= time.monotonic() - begun < 5
    assert spool.segments == 1


def test_a_server_that_stops_reading_is_given_up_in_time(keys: None):
    answers = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with Misbehaving(answers, pieces=1) as server:
        begun = time.monotonic()
        with pytest.raises(StorageError, match="cannot be asked"):
            Bucket(BUCKET, endpoint_url=server.url, timeout_s=0.5).store("key", bytes(64 * MIB))
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "answer", [b"\x00\xff nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"]
)
def test_nonsense_is_a_failure_and_no_confirmation(spool: Spool, start: Start, keys: None, answer: bytes):
    fill(spool, [1])
    with Misbehaving(answer, pieces=1, hangs_up=True) as server:
        uploader = start(server.url, timeout_s=0.3)
        wait_for(lambda: uploader.failures >= 2)
    assert (spool.segments, uploader.sent) == (1, 0)


# --- bad input


def test_a_missing_bucket_is_named_and_waited_for(
    moto: Moto, spool: Spool, start: Start, caplog: pytest.LogCaptureFixture
):
    expected = fill(spool, [1])
    moto.client.delete_bucket(Bucket=BUCKET)
    uploader = start(moto.url)
    wait_for(lambda: uploader.failures >= 2)
    assert reasons(caplog) == [f"bucket `{BUCKET}` answered PutObject with 404 NoSuchBucket"]
    moto.create_bucket()
    wait_until_empty(spool)
    assert moto.objects() == expected


@pytest.mark.parametrize("name", ["", "a", "Upper", "a/b", "-a-", "a" * 64])
def test_a_name_that_no_bucket_can_have_is_refused(name: str):
    with pytest.raises(SettingsError, match="no bucket can be called"):
        Bucket(name)


def test_an_address_of_no_server_is_refused(keys: None):
    with pytest.raises(SettingsError, match="bucket `abc` cannot be used: Invalid endpoint"):
        Bucket("abc", endpoint_url="nothing")


def test_without_keys_everything_waits_until_there_are_some(
    moto: Moto,
    spool: Spool,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    expected = fill(spool, [1])
    uploader = start(moto.url)
    wait_for(lambda: uploader.failures >= 2)
    assert reasons(caplog) == [f"bucket `{BUCKET}` cannot be asked: NoCredentialsError"]
    file.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    wait_until_empty(spool)
    assert moto.objects() == expected


def test_no_token_is_logged_however_much_else_is(
    moto: Moto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a very secret token")
    with caplog.at_level(logging.DEBUG):
        Bucket(BUCKET, endpoint_url=moto.url).store("key", b"data")
    said = "".join(logs.JsonFormatter().format(record) for record in caplog.records)
    assert not [secret for secret in ("a very secret token", SECRET_KEY, ACCESS_KEY) if secret in said]


# --- a server that checks signatures


@pytest.fixture
def gateway(keys: None, tmp_path: Path) -> Iterator[VersityGateway]:
    binary = VersityGateway.binary()
    if binary is None:
        pytest.skip("needs `versitygw` (`make tools`, or $STREETVISION_VERSITYGW)")
    (tmp_path / "gateway").mkdir()
    gateway = VersityGateway(binary, tmp_path / "gateway")
    gateway.start()
    gateway.create_bucket()
    yield gateway
    gateway.close()


def test_a_server_that_checks_signatures_takes_what_is_signed(gateway: S3, spool: Spool, start: Start):
    expected = fill(spool, [1, 2], [2, 3])
    uploader = start(gateway.url)
    wait_until_empty(spool)
    assert gateway.objects() == expected
    assert uploader.failures == 0


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ({"secret_key": "wrong and secret"}, "403 SignatureDoesNotMatch"),
        ({"access_key": "AKIDWRONG"}, "404 XAdminUserNotFound"),
    ],
)
def test_wrong_keys_are_told_without_saying_them_and_exchanged_while_it_runs(
    gateway: S3,
    spool: Spool,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: dict[str, str],
    answer: str,
):
    expected = fill(spool, [1])
    use_keys(monkeypatch, **wrong)
    with caplog.at_level(logging.INFO):
        uploader = start(gateway.url)
        wait_for(lambda: uploader.failures >= 2)
        assert spool.segments == 1
        use_keys(monkeypatch)
        wait_until_empty(spool)
    assert gateway.objects() == expected
    assert reasons(caplog) == [f"bucket `{BUCKET}` answered PutObject with {answer}"]
    said = "".join(logs.JsonFormatter().format(record) for record in caplog.records)
    assert not [key for key in (ACCESS_KEY, SECRET_KEY, *wrong.values()) if key in said]


def test_a_gateway_that_is_killed_and_started_again_gets_everything(
    gateway: VersityGateway, spool: Spool, start: Start
):
    expected = fill(spool, *([number, number + 1] for number in range(20)))
    start(gateway.url)
    wait_for(lambda: spool.segments < 18)
    gateway.stop()
    time.sleep(0.3)
    gateway.start()
    wait_until_empty(spool)
    assert gateway.objects() == expected
