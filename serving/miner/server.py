"""One miner process: both applications under uvicorn, from the ports to the last answer."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Generator

import uvicorn
from starlette.applications import Starlette

from serving.logs import event
from serving.miner.app import Edge, operator_app, subnet_app
from serving.miner.metagraph import FileMetagraph
from serving.miner.metrics import Metrics
from serving.miner.predictor import PredictorClient
from serving.miner.settings import Settings
from serving.miner.verification import CallerPolicy, Verifier
from streetvision.errors import BusyError, SettingsError
from streetvision.subnet.wallet import load_keypair

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then answers what has arrived and returns.

    Raises:
        SettingsError: the wallet or the metagraph cannot be used.
        BusyError: a port is in use.
    """
    hotkey = load_keypair(settings.wallet_path, settings.wallet_name, settings.hotkey_name).ss58_address
    if settings.metagraph_file is None:
        raise SettingsError("network `mock` needs a metagraph_file")
    metagraph = FileMetagraph(settings.metagraph_file)
    policy = CallerPolicy(require_permit=settings.require_permit, minimum_stake=settings.minimum_stake)
    metrics = Metrics()
    with (
        listen(settings.host, settings.port) as public,
        listen(settings.metrics_host, settings.metrics_port) as private,
    ):
        async with PredictorClient(settings.predictor_url, model_name=settings.model_name) as predictor:
            edge = Edge(
                Verifier(hotkey, metagraph, policy=policy),
                predictor,
                metrics,
                body_limit_bytes=settings.body_limit_bytes,
                body_timeout_s=settings.body_timeout_s,
                answer_deadline_s=settings.answer_deadline_s,
            )
            event(
                logger,
                "started",
                hotkey=hotkey,
                registered=metagraph.neuron(hotkey) is not None,
                port=public.getsockname()[1],
                metrics_port=private.getsockname()[1],
                predictor_url=settings.predictor_url,
            )
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await run((subnet_app(edge), public), (operator_app(metrics, predictor), private), stop=stop)
    event(logger, "stopped")


async def run(*applications: tuple[Starlette, socket.socket], stop: asyncio.Event) -> None:
    """Serves each application on its listening socket until `stop` is set and all that arrived is answered."""
    servers = [(_Server(_config(app)), listener) for app, listener in applications]
    async with asyncio.TaskGroup() as group:
        for server, listener in servers:
            group.create_task(server.serve(sockets=[listener]))
        await stop.wait()
        for server, _ in servers:
            server.should_exit = True


class _Server(uvicorn.Server):
    """A server that leaves the signals of the process to us: two of them run here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=9,  # no challenge lives longer
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        BusyError: the port is in use.
        SettingsError: the address cannot be listened at.
    """
    try:
        if ":" in host:
            return socket.create_server(
                (host, port), family=socket.AF_INET6, dualstack_ipv6=socket.has_dualstack_ipv6(), backlog=1024
            )
        return socket.create_server((host, port), backlog=1024)
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise BusyError(
                f"port {port} at `{host}` is in use", hint="stop what listens there, or set another port"
            ) from err
        raise SettingsError(f"cannot listen at `{host}` port {port}: {err.strerror or err}") from err
