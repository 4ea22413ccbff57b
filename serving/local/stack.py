"""The servers: predictor, miner edge, MLflow."""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from serving.local import processes
from serving.local.state import State
from streetvision import atomic
from streetvision.subnet.wallet import create_hotkey

MINER, VALIDATOR, HOTKEY = "miner", "validator", "default"
VALIDATOR_STAKE = 50_000.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Stack:
    """A predictor and a miner edge that answer."""

    predictor: subprocess.Popen[bytes]
    predictor_url: str
    predictor_grpc: str
    miner: subprocess.Popen[bytes]
    miner_url: str
    miner_hotkey: str
    metrics_url: str


def serve(state: State, model_dir: Path, stopping: ExitStack, *, stay: bool) -> Stack:
    """Predictor and miner edge over one model directory, once both are ready.

    Args:
        state: where wallets, network and logs lie.
        model_dir: what is served.
        stopping: is given what stops them.
        stay: whether they outlive us.

    Raises:
        ServerError: one of them did not come up.
    """
    hotkey = create_hotkey(state.wallets, MINER, HOTKEY)
    validator = create_hotkey(state.wallets, VALIDATOR, HOTKEY)
    http, grpc, edge, metrics = (processes.free_port(port) for port in (8080, 8081, 8091, 9091))
    mark = {processes.STATE_VARIABLE: str(state.root)}
    metagraph = state.metagraph(stay=stay)
    atomic.write_json(
        metagraph,
        [
            {"uid": 0, "hotkey": validator, "stake": VALIDATOR_STAKE, "permit": True, "ip": HOST, "port": 0},
            {"uid": 1, "hotkey": hotkey, "stake": 0.0, "permit": False, "ip": HOST, "port": edge},
        ],
    )
    predictor_url, metrics_url = f"http://{HOST}:{http}", f"http://{HOST}:{metrics}"
    settings = {
        "WALLET_PATH": state.wallets,
        "WALLET_NAME": MINER,
        "HOTKEY_NAME": HOTKEY,
        "NETWORK": "mock",
        "METAGRAPH_FILE": metagraph,
        "PREDICTOR_URL": predictor_url,
        "NONCE_FILE": state.miner(stay=stay) / "nonces",
        "SPOOL_FOLDER": state.miner(stay=stay) / "predictions",
        "SPOOL_LIMIT_BYTES": 256 * 1024 * 1024,
        "HOST": HOST,
        "PORT": edge,
        "METRICS_PORT": metrics,
    }
    predictor = start_predictor(state, model_dir, http=http, grpc=grpc, stay=stay)
    stopping.callback(processes.stop, predictor.pid)
    miner = processes.start(
        "serving.miner",
        [],
        environment=mark | {f"STREETVISION_MINER_{name}": str(value) for name, value in settings.items()},
        log=state.log("miner"),
        stay=stay,
    )
    stopping.callback(processes.stop, miner.pid)
    await_predictor(state, predictor, predictor_url)
    processes.await_http(f"{metrics_url}/health/ready", miner, state.log("miner"))
    return Stack(
        predictor=predictor,
        predictor_url=predictor_url,
        predictor_grpc=f"{HOST}:{grpc}",
        miner=miner,
        miner_url=f"http://{HOST}:{edge}",
        miner_hotkey=hotkey,
        metrics_url=f"{metrics_url}/metrics",
    )


def start_predictor(state: State, model_dir: Path, *, http: int, grpc: int, stay: bool) -> subprocess.Popen[bytes]:
    """A predictor over one model directory, which is not awaited."""
    return processes.start(
        "serving.predictor",
        ["--model-dir", str(model_dir), "--host", HOST, "--http_port", str(http), "--grpc_port", str(grpc)],
        environment={processes.STATE_VARIABLE: str(state.root)},
        log=state.log("predictor"),
        stay=stay,
    )


def await_predictor(state: State, predictor: subprocess.Popen[bytes], url: str) -> None:
    """Returns once it answers.

    Raises:
        ServerError: it did not come up.
    """
    processes.await_http(f"{url}/v2/models/roadwork/ready", predictor, state.log("predictor"))


def mlflow_server(state: State, stopping: ExitStack) -> tuple[subprocess.Popen[bytes], str]:
    """MLflow's server and UI over the run's database, and its address, once it answers; it outlives us.

    Raises:
        ServerError: it did not come up.
    """
    port = processes.free_port(5000)
    process = processes.start(
        "mlflow",
        [
            "server",
            *("--backend-store-uri", state.tracking_uri),
            *("--artifacts-destination", str(state.root / "mlflow-artifacts")),
            *("--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        environment={
            processes.STATE_VARIABLE: str(state.root),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        log=state.log("mlflow"),
        stay=True,
    )
    stopping.callback(processes.stop, process.pid)
    processes.await_http(f"http://{HOST}:{port}/health", process, state.log("mlflow"))
    return process, f"http://{HOST}:{port}"
