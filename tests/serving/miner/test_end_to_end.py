"""A simulated validator, a real miner and a real predictor, each in a process of its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from serving.local import processes
from serving.miner.settings import PREFIX
from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.imaging import encode_jpeg
from streetvision.simulation import Miner, simulate
from streetvision.subnet.wallet import create_hotkey, load_keypair
from tests.brightness import write_model_directory
from tests.ports import free_ports


def dark_and_bright(folder: Path) -> ChallengeSet:
    folder.mkdir()
    rows: list[Challenge] = []
    for label, brightness in enumerate((30, 220)):
        file = f"{label}.jpg"
        (folder / file).write_bytes(encode_jpeg(np.full((224, 224, 3), brightness, dtype=np.uint8)))
        rows.append(
            Challenge(
                challenge_id=f"set/{label}",
                file=file,
                image=file,
                label=label,
                source="real",
                level=0,
                group=file,
                image_sha256="",
            )
        )
    return ChallengeSet(folder, "v1", "R1", 0, "data", tuple(rows))


@pytest.mark.slow  # kserve takes seconds to start
async def test_a_simulated_validator_is_answered_until_the_predictor_stops(tmp_path: Path):
    miner_hotkey = create_hotkey(tmp_path / "wallets", "miner", "default")
    validator_hotkey = create_hotkey(tmp_path / "wallets", "validator", "default")
    neuron = {"stake": 1.0, "permit": True, "ip": "127.0.0.1", "port": 0}
    neurons = [{"uid": uid, "hotkey": hotkey} | neuron for uid, hotkey in enumerate((validator_hotkey, miner_hotkey))]
    (tmp_path / "metagraph.json").write_text(json.dumps(neurons))
    http_port, grpc_port, port, metrics_port = free_ports(4)
    settings = {
        "WALLET_PATH": tmp_path / "wallets",
        "WALLET_NAME": "miner",
        "HOTKEY_NAME": "default",
        "NETWORK": "mock",
        "METAGRAPH_FILE": tmp_path / "metagraph.json",
        "PREDICTOR_URL": f"http://127.0.0.1:{http_port}",
        "HOST": "127.0.0.1",
        "PORT": port,
        "METRICS_PORT": metrics_port,
    }
    environment = {PREFIX + name: str(value) for name, value in settings.items()}
    model_dir = write_model_directory(tmp_path / "model")
    arguments = ["--model-dir", model_dir, "--http_port", http_port, "--grpc_port", grpc_port, "--threads", 1]
    logs = {"predictor": tmp_path / "predictor.log", "miner": tmp_path / "miner.log"}
    predictor = processes.start(
        "serving.predictor", [*map(str, arguments)], environment={}, log=logs["predictor"], stay=False
    )
    miner = processes.start("serving.miner", [], environment=environment, log=logs["miner"], stay=False)
    try:
        processes.await_http(f"http://127.0.0.1:{http_port}/v2/models/roadwork/ready", predictor, logs["predictor"])
        processes.await_http(f"http://127.0.0.1:{metrics_port}/health/ready", miner, logs["miner"])
        challenges = dark_and_bright(tmp_path / "challenges")
        keypair = load_keypair(tmp_path / "wallets", "validator", "default")
        miners = [Miner(uid=1, url=f"http://127.0.0.1:{port}", hotkey=miner_hotkey)]
        result = await simulate(miners, challenges, keypair, count=40, seed=0, time_scale=0)
        [answered] = result.miners
        assert (answered.answered, answered.accuracy, answered.errors) == (40, 1.0, {})
        assert result.events[-1].reward == 1.0
        predictor.terminate()
        predictor.wait(20)
        result = await simulate(miners, challenges, keypair, count=3, seed=0, time_scale=0)
        [abstained] = result.miners
        assert (abstained.answered, abstained.abstained, abstained.errors) == (0, 3, {})
        events = [json.loads(line) for line in logs["miner"].read_text().splitlines()]
        assert events[0]["event"] == "started"
        assert [event["reason"] for event in events if event["event"] == "abstain"] == ["unreachable"] * 3
    finally:
        for process in (miner, predictor):
            process.terminate()
            process.wait(20)
    assert (miner.returncode, predictor.returncode) == (0, 0)
