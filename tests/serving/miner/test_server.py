import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bittensor_wallet import Keyfile, Keypair

from serving.miner import reload
from serving.miner.keys import Hotkey
from serving.miner.metagraph import FileMetagraph
from serving.miner.server import serve
from serving.miner.settings import PREFIX, Settings
from streetvision import atomic
from streetvision.errors import BusyError, SettingsError, StorageError
from streetvision.subnet.wallet import hotkey_file
from tests.serving.miner.predictors import good, scripted

# Fixtures come from the conftest.py beside this file.
ALICE = Keypair.create_from_uri("//Alice")
MINER = Keypair.create_from_uri("//Bob")
COMMAND = [sys.executable, "-W", "error", "-m", "serving.miner"]


def eventually(holds: Callable[[], bool], *, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# --- the beginning and the end


def test_a_miner_starts_says_where_and_stops_at_once(start_process: Callable[..., Any]):
    miner = start_process()
    assert miner.started["registered"] is True
    assert httpx.get(miner.operator + "/health/ready").status_code == 200
    assert miner.validator.ask().json()["prediction"] == 0.77
    with socket.create_connection(("127.0.0.1", miner.started["port"])):
        begun = time.monotonic()
        assert miner.stop() == 0
        assert time.monotonic() - begun < 3
    assert [event["event"] for event in miner.events()] == ["started", "stopped"]


def test_a_challenge_on_its_way_is_answered_before_the_miner_ends(start_process: Callable[..., Any], predictor: Any):
    miner = start_process()
    predictor.delay_s = 1.0
    replies: list[Any] = []
    asking = threading.Thread(target=lambda: replies.append(miner.validator.ask()))
    asking.start()
    assert eventually(lambda: len(predictor.requests) == 1)
    assert miner.stop() == 0
    asking.join()
    assert (replies[0].status_code, replies[0].json()["prediction"]) == (200, 0.77)
    assert replies[0].headers["connection"] == "close"


def test_readiness_goes_first_and_challenges_are_still_taken_for_a_while(start_process: Callable[..., Any]):
    miner = start_process(DRAIN_S="1")
    miner.popen.send_signal(signal.SIGTERM)
    assert eventually(lambda: httpx.get(miner.operator + "/health/ready").status_code == 503)
    assert httpx.get(miner.operator + "/health/ready").json()["accepting"] is False
    assert miner.validator.ask().status_code == 200
    assert miner.popen.wait(10) == 0


async def start(env: dict[str, str]) -> None:
    """Starts a miner in this process, which must refuse."""
    await asyncio.wait_for(serve(Settings.from_environment(env)), timeout=5)


@pytest.mark.parametrize("name", ["PORT", "METRICS_PORT"])
async def test_a_port_in_use_is_named(miner_environment: Callable[..., dict[str, str]], name: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} at `127.0.0.1` is in use\nhint: stop"):
            await start(miner_environment(**{name: str(port)}))


async def test_an_address_that_is_not_ours_is_named(miner_environment: Callable[..., dict[str, str]]):
    with pytest.raises(SettingsError, match="cannot listen at `192.0.2.1`"):
        await start(miner_environment(HOST="192.0.2.1"))


async def test_a_missing_wallet_is_named(miner_environment: Callable[..., dict[str, str]]):
    with pytest.raises(SettingsError, match="no hotkey `default` of wallet `other`"):
        await start(miner_environment(WALLET_NAME="other"))


@pytest.mark.parametrize("place", ["wallet", "volume", "environment"])
async def test_a_coldkey_in_reach_is_named_and_the_miner_does_not_start(
    miner_environment: Callable[..., dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    env = miner_environment(GUARDED_PATHS=str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    phrase = Keypair.generate_mnemonic(12)
    match place:
        case "wallet":
            (tmp_path / "wallets" / "miner" / "coldkey").write_text("{}")
        case "volume":
            (tmp_path / "data" / "backup.txt").write_text(phrase)
        case _:
            env["NOTES"] = phrase
    with pytest.raises(SettingsError, match="does not start where a coldkey is in reach: ") as raised:
        await asyncio.wait_for(serve(Settings.from_environment(env), env), timeout=5)
    found = {"wallet": "coldkey` is named as a coldkey", "volume": "backup.txt` holds a mnemonic"}
    assert found.get(place, "environment variable `NOTES` holds a mnemonic") in raised.value.message
    assert phrase.split()[0] + " " not in str(raised.value)


async def test_a_nonce_file_that_cannot_be_written_is_named(
    miner_environment: Callable[..., dict[str, str]], tmp_path: Path
):
    with pytest.raises(StorageError, match="cannot write `.*nonces`"):
        await start(miner_environment(NONCE_FILE=str(tmp_path / "metagraph.json" / "nonces")))


@pytest.mark.parametrize("content", ["[{}]", "{", '[{"uid": 1}]'])
def test_a_bad_metagraph_is_named(tmp_path: Path, content: str):
    file = tmp_path / "metagraph.json"
    file.write_text(content)
    with pytest.raises(SettingsError, match="metagraph `.*` is unusable"):
        FileMetagraph(file)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        FileMetagraph(tmp_path / "none.json")


def test_a_refusal_to_start_is_one_sentence_and_exit_code_2():
    result = subprocess.run(
        COMMAND, env=dict(os.environ) | {PREFIX + "PROT": "1"}, capture_output=True, text=True, timeout=20
    )
    assert result.returncode == 2
    assert result.stderr.startswith("miner: `STREETVISION_MINER_")
    assert "`STREETVISION_MINER_PROT` is no setting of the miner" in result.stderr
    assert result.stderr.count("\n") == 1


# --- the network


def neurons(*keypairs: Keypair) -> list[dict[str, Any]]:
    return [
        {"uid": uid, "hotkey": one.ss58_address, "stake": 5000.0, "permit": True, "ip": "8.8.8.8", "port": 8091}
        for uid, one in enumerate(keypairs)
    ]


def test_an_unregistered_miner_serves_nothing_and_says_what_to_do(start_process: Callable[..., Any], tmp_path: Path):
    miner = start_process()
    metagraph = tmp_path / "metagraph.json"
    assert miner.validator.ask().status_code == 200
    atomic.write_json(metagraph, neurons(ALICE))
    reply = miner.validator.ask()
    assert (reply.status_code, miner.refused()) == (503, {"not_registered": 1})
    ready = httpx.get(miner.operator + "/health/ready")
    assert (ready.status_code, ready.json()) == (
        503,
        {
            "ready": False,
            "hotkeys": [MINER.ss58_address],
            "accepting": True,
            "predictor": True,
            "registered": False,
        },
    )
    assert miner.counts()["streetvision_miner_registered"] == 0
    metagraph = tmp_path / "others.json"
    atomic.write_json(metagraph, neurons(ALICE))
    late = start_process(METAGRAPH_FILE=str(metagraph))
    [event] = [event for event in late.events() if event["event"] == "unregistered"]
    assert "add it to that file" in event["hint"]
    atomic.write_json(metagraph, neurons(ALICE, MINER))
    assert late.validator.ask().status_code == 200
    assert late.counts()["streetvision_miner_registered"] == 1


@pytest.fixture
def silent_node() -> Iterator[str]:
    """Address of a node that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ws://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_chain_costs_no_answer_where_the_neurons_were_known(
    start_process: Callable[..., Any], silent_node: str, tmp_path: Path
):
    cache = tmp_path / "kept.json"
    chain = {"NETWORK": "finney", "METAGRAPH_FILE": None, "CHAIN_ENDPOINTS": silent_node, "CHAIN_DEADLINE_S": "0.5"}
    ignorant = start_process(METAGRAPH_CACHE=str(cache), **chain)
    assert ignorant.validator.ask().status_code == 503
    assert ignorant.counts()["streetvision_miner_metagraph_age_seconds"] == float("inf")
    atomic.write_json(cache, {"chain": "finney/72", "synced_at": time.time() - 7200, "neurons": neurons(ALICE, MINER)})
    miner = start_process(METAGRAPH_CACHE=str(cache), **chain)
    begun_s = time.monotonic()
    assert miner.validator.ask().json()["prediction"] == 0.77
    assert time.monotonic() - begun_s < 2
    assert eventually(lambda: miner.counts()["streetvision_miner_chain_failures"] >= 1)
    assert miner.validator.ask().json()["prediction"] == 0.77
    assert 7200 <= miner.counts()["streetvision_miner_metagraph_age_seconds"] < 7300
    [failed] = [event for event in miner.events() if event["event"] == "chain_failed"]
    assert failed["reason"] == f"`{silent_node}` did not answer `neurons` within 0.5 s"
    assert miner.stop() == 0


async def test_an_address_that_cannot_be_announced_is_named(miner_environment: Callable[..., dict[str, str]]):
    with pytest.raises(SettingsError, match="`10.0.0.7` is no address that validators can call"):
        await start(miner_environment(NETWORK="test", METAGRAPH_FILE=None, ANNOUNCE_IP="10.0.0.7"))


def test_help_tells_every_setting_its_default_and_what_may_change():
    result = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0
    assert all(f"\n{PREFIX}{name.upper()}" in result.stdout for name in Settings.model_fields)
    assert f"{PREFIX}MINIMUM_STAKE [0.0], may change while it runs\n" in result.stdout
    assert "\n    Where nonces outlive a restart.\n" in result.stdout
    assert subprocess.run([*COMMAND, "--port"], capture_output=True, timeout=20).returncode == 2


# --- nonces across processes


def test_a_replay_is_refused_after_the_miner_was_killed(start_process: Callable[..., Any], tmp_path: Path):
    miner = start_process(NONCE_FILE=str(tmp_path / "nonces"))
    request = miner.validator.request()
    assert miner.validator.send(*request).status_code == 200
    early = miner.validator.request()  # signed before the restart, and sent after it
    miner.popen.kill()
    miner.popen.wait()
    reborn = start_process(NONCE_FILE=str(tmp_path / "nonces"))
    assert reborn.validator.send(*request).status_code == 401
    assert reborn.refused() == {"replay": 1}
    assert reborn.validator.send(*early).status_code == 200


# --- the prediction log


def test_what_was_answered_lies_in_the_spool_when_the_miner_has_ended(
    start_process: Callable[..., Any], predictor: Any, tmp_path: Path
):
    spool = tmp_path / "spool"
    miner = start_process(SPOOL_FOLDER=str(spool), SHADOW_URL=predictor.url)
    for number in range(3):
        assert miner.validator.ask(image=b"picture %d" % number).status_code == 200
    assert miner.validator.ask(keypair=Keypair.create_from_uri("//Eve")).status_code == 403
    assert eventually(lambda: miner.counts()["streetvision_miner_shadow_answered"] == 3)
    assert miner.counts()["streetvision_miner_prediction_log_lost"] == 0
    assert miner.stop() == 0
    records = [json.loads(line) for file in spool.rglob("records.jsonl") for line in file.read_text().splitlines()]
    by_request: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_request.setdefault(record["request_id"], []).append(record)
    assert len(by_request) == 3
    for of_one in by_request.values():
        assert len(of_one) == 3  # accepted, finished, and what the challenger said
        assert sum("image_sha256" in record for record in of_one) == 1
    assert len(list(spool.rglob("*.jpg"))) == 3


# --- reloading


@pytest.fixture
def settings_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the settings file anew."""

    def write(**settings: Any) -> Path:
        file = tmp_path / "settings.json"
        file.with_suffix(".new").write_text(json.dumps(settings))
        file.with_suffix(".new").replace(file)
        return file

    return write


def reloads(miner: Any) -> list[dict[str, Any]]:
    return [event for event in miner.events() if event["event"].startswith("reload")]


def test_settings_change_while_the_port_stays(start_process: Callable[..., Any], settings_file: Callable[..., Path]):
    miner = start_process(SETTINGS_FILE=str(settings_file(minimum_stake=100)), MINIMUM_STAKE=None)
    low_stake = Keypair.create_from_uri("//Dave")
    assert miner.validator.ask(keypair=low_stake).status_code == 403
    kept = httpx.Client(trust_env=False)
    headers, body = miner.validator.request()
    url = miner.validator.url + "/ImageSynapse"
    assert kept.post(url, headers=headers, content=body).status_code == 200
    port = kept._transport._pool.connections[0]._connection._network_stream.get_extra_info("client_addr")
    settings_file(minimum_stake=10, body_limit_bytes=2000, idle_timeout_s=5)
    miner.popen.send_signal(signal.SIGHUP)
    assert eventually(lambda: reloads(miner) != [])
    [event] = reloads(miner)
    assert (event["event"], event["changed"]) == (
        "reloaded",
        ["body_limit_bytes", "idle_timeout_s", "minimum_stake"],
    )
    assert miner.validator.ask(keypair=low_stake).status_code == 200
    assert miner.validator.ask(image=bytes(3000)).status_code == 413
    headers, body = miner.validator.request()
    assert kept.post(url, headers=headers, content=body).status_code == 200
    assert kept._transport._pool.connections[0]._connection._network_stream.get_extra_info("client_addr") == port
    kept.close()


def test_what_needs_a_restart_is_named_and_left(start_process: Callable[..., Any], settings_file: Callable[..., Path]):
    miner = start_process(SETTINGS_FILE=str(settings_file()))
    settings_file(model_name="other", regime="R3")
    miner.popen.send_signal(signal.SIGHUP)
    assert eventually(lambda: reloads(miner) != [])
    [event] = reloads(miner)
    assert (event["changed"], event["needs_restart"]) == (["regime"], ["model_name"])
    assert miner.validator.ask(image=bytes(2_000_000)).json()["prediction"] == 0.77  # which R1 would refuse


@pytest.mark.parametrize("content", ["{", "[]", '{"prot": 1}', '{"minimum_stake": "much"}', '{"port": 1}'])
def test_settings_that_cannot_be_used_leave_all_as_it_was(
    start_process: Callable[..., Any], settings_file: Callable[..., Path], content: str
):
    file = settings_file()
    miner = start_process(SETTINGS_FILE=str(file))
    file.write_text(content)
    miner.popen.send_signal(signal.SIGHUP)
    assert eventually(lambda: reloads(miner) != [])
    [event] = reloads(miner)
    assert event["event"] == "reload_refused"
    assert event["reason"]
    assert miner.validator.ask().status_code == 200


def test_a_new_hotkey_is_noticed_and_the_old_one_still_answered(start_process: Callable[..., Any], tmp_path: Path):
    miner = start_process()
    new = Keypair.create_from_uri("//Bob//next")
    assert miner.validator.ask(receiver=new.ss58_address).status_code == 401
    file = tmp_path / "wallets" / "miner" / "hotkeys" / "default"
    Keyfile(str(file.with_name("next"))).set_keypair(new, encrypt=False, overwrite=False)
    file.with_name("next").replace(file)
    assert eventually(lambda: reloads(miner) != [])  # nobody sent a signal
    [event] = reloads(miner)
    assert (event["changed"], event["hotkey"]) == (["hotkey"], new.ss58_address)
    assert miner.validator.ask(receiver=new.ss58_address).status_code == 200
    assert miner.validator.ask(receiver=MINER.ss58_address).status_code == 200


async def test_another_predictor_is_asked_without_a_connection_lost(
    start_process: Callable[..., Any], settings_file: Callable[..., Path]
):
    async with scripted(good(0.1)) as blue, scripted(good(0.9)) as green:
        file = settings_file(predictor_url=blue.url)
        miner = start_process(SETTINGS_FILE=str(file), PREDICTOR_URL=None)
        with httpx.Client(trust_env=False) as kept:
            url = miner.validator.url + "/ImageSynapse"

            def ask() -> float:
                headers, body = miner.validator.request()
                return kept.post(url, headers=headers, content=body).json()["prediction"]

            assert await asyncio.to_thread(ask) == 0.1
            settings_file(predictor_url=green.url)
            while not reloads(miner):  # nobody sent a signal
                await asyncio.sleep(0.02)
            assert await asyncio.to_thread(ask) == 0.9
            assert len(kept._transport._pool.connections) == 1
        assert reloads(miner)[0]["changed"] == ["predictor_url"]


def test_a_coldkey_that_comes_later_stops_a_reload_and_no_answer(start_process: Callable[..., Any], tmp_path: Path):
    miner = start_process()
    (tmp_path / "wallets" / "miner" / "coldkey").write_text("{}")
    miner.popen.send_signal(signal.SIGHUP)
    assert eventually(lambda: reloads(miner) != [])
    [event] = reloads(miner)
    assert event["event"] == "reload_refused"
    assert "coldkey` is named as a coldkey" in event["reason"]
    assert miner.validator.ask().status_code == 200


def test_no_picture_of_a_caller_stops_a_restart_or_a_reload(start_process: Callable[..., Any], tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    places = {"SPOOL_FOLDER": data / "predictions", "NONCE_FILE": data / "nonces", "GUARDED_PATHS": data}
    kept = {name: str(path) for name, path in places.items()}
    miner = start_process(**kept)
    assert miner.validator.ask(image=b'{"secretPhrase": "x"}').status_code == 200
    assert miner.validator.ask(uuid="zoo " * 11 + "wrong").status_code == 200
    miner.popen.send_signal(signal.SIGHUP)
    assert eventually(lambda: reloads(miner) != [])
    assert reloads(miner)[0]["event"] == "reloaded"
    assert miner.stop() == 0
    assert start_process(**kept).validator.ask().status_code == 200


@pytest.mark.parametrize("name", ["SETTINGS_FILE", "METAGRAPH_FILE"])
def test_a_named_pipe_in_the_place_of_a_file_holds_nothing_up(
    start_process: Callable[..., Any], settings_file: Callable[..., Path], tmp_path: Path, name: str
):
    miner = start_process(SETTINGS_FILE=str(settings_file()))
    file = tmp_path / ("settings.json" if name == "SETTINGS_FILE" else "metagraph.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").replace(file)
    miner.popen.send_signal(signal.SIGHUP)
    assert eventually(lambda: reloads(miner) != [])
    assert miner.validator.ask().status_code == 200
    assert miner.stop() == 0


async def test_what_changes_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "settings.json"
    wallet = {"wallet_path": str(tmp_path), "wallet_name": "miner", "hotkey_name": "default", "network": "test"}
    key = hotkey_file(tmp_path, "miner", "default")
    applied: list[float] = []

    def write(stake: float) -> None:
        atomic.write_json(file, wallet | {"predictor_url": "http://127.0.0.1:1", "minimum_stake": stake})

    def slow(settings: Settings, environment: Any) -> Hotkey:
        if not applied:
            write(7)  # while the first is being read
        return Hotkey(address="a", file=key, wallet_name="miner", name="default")

    monkeypatch.setattr(reload, "own_hotkey", slow)
    monkeypatch.setattr(reload, "_WATCH_S", 0.02)
    write(5)
    environment = {PREFIX + "SETTINGS_FILE": str(file)}
    settings = Settings.from_environment(environment)
    hotkey = Hotkey(address="a", file=key, wallet_name="miner", name="default")
    reloader = reload.Reloader(environment, settings, hotkey, lambda new, _: applied.append(new.minimum_stake))
    write(6)
    running = asyncio.create_task(reloader.run())
    async with asyncio.timeout(5):
        while applied[-1:] != [7]:
            await asyncio.sleep(0.01)
    running.cancel()


def test_a_hotkey_that_vanishes_leaves_the_one_in_force(start_process: Callable[..., Any], tmp_path: Path):
    miner = start_process()
    (tmp_path / "wallets" / "miner" / "hotkeys" / "default").unlink()
    assert eventually(lambda: reloads(miner) != [])
    assert "no hotkey `default`" in reloads(miner)[0]["reason"]
    assert miner.validator.ask().status_code == 200
