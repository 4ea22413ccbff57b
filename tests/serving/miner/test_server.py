import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.miner.metagraph import FileMetagraph
from serving.miner.server import serve
from serving.miner.settings import PREFIX, Settings
from streetvision.errors import BusyError, SettingsError
from streetvision.subnet.wallet import create_hotkey


def environment(folder: Path, predictor_url: str, **changes: str) -> dict[str, str]:
    hotkey = create_hotkey(folder / "wallets", "miner", "default")
    metagraph = folder / "metagraph.json"
    neuron = {"uid": 0, "hotkey": hotkey, "stake": 0.0, "permit": False, "ip": "127.0.0.1", "port": 8091}
    metagraph.write_text(json.dumps([neuron]))
    settings = {
        "WALLET_PATH": str(folder / "wallets"),
        "WALLET_NAME": "miner",
        "HOTKEY_NAME": "default",
        "NETWORK": "mock",
        "METAGRAPH_FILE": str(metagraph),
        "PREDICTOR_URL": predictor_url,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "METRICS_PORT": "0",
    }
    return dict(os.environ) | {PREFIX + name: value for name, value in (settings | changes).items()}


COMMAND = [sys.executable, "-W", "error", "-m", "serving.miner"]


@contextmanager
def process(env: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A running miner and its `started` event."""
    miner = subprocess.Popen(COMMAND, env=env, stderr=subprocess.PIPE, text=True)
    try:
        assert miner.stderr is not None
        line = miner.stderr.readline()
        assert '"started"' in line, line + miner.stderr.read()
        yield miner, json.loads(line)
    finally:
        miner.kill()
        miner.communicate()


def test_a_miner_starts_says_where_and_stops_at_once(tmp_path: Path, predictor: Any):
    with process(environment(tmp_path, predictor.url)) as (miner, started):
        assert started["event"] == "started"
        assert started["registered"] is True
        operator = f"http://127.0.0.1:{started['metrics_port']}"
        assert httpx.get(operator + "/health/ready").status_code == 200
        assert httpx.post(f"http://127.0.0.1:{started['port']}/ImageSynapse").status_code == 401
        idle = socket.create_connection(("127.0.0.1", started["port"]))
        start = time.monotonic()
        miner.send_signal(signal.SIGTERM)
        _, stderr = miner.communicate(timeout=5)
        idle.close()
        assert time.monotonic() - start < 2
        assert miner.returncode == 0
        assert [json.loads(line)["event"] for line in stderr.splitlines()] == ["stopped"], stderr


async def start(env: dict[str, str]) -> None:
    """Starts a miner in this process, which must refuse."""
    await asyncio.wait_for(serve(Settings.from_environment(env)), timeout=5)


@pytest.mark.parametrize("name", ["PORT", "METRICS_PORT"])
async def test_a_port_in_use_is_named(tmp_path: Path, name: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port} at `127.0.0.1` is in use\nhint: stop"):
            await start(environment(tmp_path, "http://127.0.0.1:1", **{name: str(port)}))


async def test_an_address_that_is_not_ours_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="cannot listen at `192.0.2.1`"):
        await start(environment(tmp_path, "http://127.0.0.1:1", HOST="192.0.2.1"))


async def test_a_missing_wallet_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="no hotkey `default` of wallet `other`"):
        await start(environment(tmp_path, "http://127.0.0.1:1", WALLET_NAME="other"))


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
