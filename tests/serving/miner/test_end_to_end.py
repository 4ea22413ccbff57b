"""A simulated validator, a real miner and a real predictor, each in a process of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from serving.miner.settings import PREFIX
from streetvision.challenge_set import Challenge, ChallengeSet
from streetvision.imaging import encode_jpeg
from streetvision.inference.model_directory import write_config
from streetvision.simulation import Miner, simulate
from streetvision.subnet.wallet import create_hotkey, load_keypair

SIZE_PX = 32


def brightness_model(folder: Path) -> Path:
    """A model that says how bright a picture is: above a quarter is roadwork."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "full"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
            helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    write_config(
        folder,
        preset="brightness",
        input_size_px=SIZE_PX,
        threshold=0.25,
        temperature=1.0,
        data_version="d" * 64,
        code_version="c" * 64,
        git_sha="",
    )
    return folder


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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def await_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(log.read_text()[-2000:])


@pytest.mark.slow  # kserve takes seconds to start
async def test_a_simulated_validator_is_answered_until_the_predictor_stops(tmp_path: Path):
    miner_hotkey = create_hotkey(tmp_path / "wallets", "miner", "default")
    validator_hotkey = create_hotkey(tmp_path / "wallets", "validator", "default")
    neuron = {"uid": 0, "hotkey": validator_hotkey, "stake": 1.0, "permit": True, "ip": "127.0.0.1", "port": 0}
    (tmp_path / "metagraph.json").write_text(json.dumps([neuron]))
    http_port, grpc_port, port, metrics_port = (free_port() for _ in range(4))
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
    model = brightness_model(tmp_path / "model")
    arguments = ["--model-dir", model, "--http_port", http_port, "--grpc_port", grpc_port, "--threads", 1]
    logs = [tmp_path / "predictor.log", tmp_path / "miner.log"]
    with logs[0].open("w") as predictor_log, logs[1].open("w") as miner_log:
        predictor = subprocess.Popen(
            [sys.executable, "-m", "serving.predictor", *map(str, arguments)], stderr=predictor_log
        )
        miner = subprocess.Popen(
            [sys.executable, "-m", "serving.miner"],
            env=dict(os.environ) | {PREFIX + name: str(value) for name, value in settings.items()},
            stderr=miner_log,
        )
        try:
            await_ready(f"http://127.0.0.1:{metrics_port}/health/ready", logs[0])
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
            events = [json.loads(line) for line in logs[1].read_text().splitlines()]
            assert events[0]["event"] == "started"
            assert [event["reason"] for event in events if event["event"] == "abstain"] == ["unreachable"] * 3
        finally:
            for process in (miner, predictor):
                process.terminate()
                process.wait(20)
    assert (miner.returncode, predictor.returncode) == (0, 0)
