"""One miner process: from the keys and the ports to the last answer."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from serving.logs import event
from serving.miner.app import Edge, Operator
from serving.miner.breaker import Breaker
from serving.miner.chain import SubtensorChain
from serving.miner.forward import Forward
from serving.miner.http_server import HttpServer, Limits
from serving.miner.keys import Hotkey
from serving.miner.metagraph import ChainMetagraph, Endpoint, FileMetagraph, Metagraph
from serving.miner.metrics import Metrics
from serving.miner.nonces import LocalNonces, NonceStore
from serving.miner.prediction_log import PredictionLog, kept_in
from serving.miner.predictor import Predictor
from serving.miner.reload import Reloader, own_hotkey
from serving.miner.settings import Settings
from serving.miner.shadow import Shadow
from serving.miner.verification import Verifier
from streetvision.errors import BusyError, SettingsError

logger = logging.getLogger(__name__)

_GRACE_S = 9.0  # no challenge lives longer


async def serve(settings: Settings, environment: Mapping[str, str] = os.environ) -> None:
    """Serves until SIGTERM or SIGINT, then answers what has arrived and returns.

    Args:
        settings: what is in force at first.
        environment: where they are read again.

    Raises:
        SettingsError: the wallet, the metagraph or the bucket cannot be used.
        StorageError: the nonce file or the spool cannot be used.
        BusyError: a port or the spool is in use.
    """
    hotkey = own_hotkey(settings, environment)
    metrics = Metrics()
    with (
        listen(settings.host, settings.port) as public,
        listen(settings.metrics_host, settings.metrics_port) as private,
    ):
        async with (
            metagraph_of(settings, hotkey, metrics, port=public.getsockname()[1]) as metagraph,
            nonce_store(settings) as nonces,
            prediction_log(settings, metrics) as journal,
            forward_to(settings, metrics, journal) as forward,
        ):
            verifier = Verifier([hotkey.address], metagraph, nonces, policy=settings.policy)
            edge = Edge(
                verifier,
                forward,
                metrics,
                journal=journal,
                body_limit_bytes=settings.largest_body_bytes,
                answer_deadline_s=settings.answer_deadline_s,
            )

            async def registered() -> bool:
                return verifier.registered

            text = "1 while a hotkey of ours is known to be registered; nobody is answered before"
            metrics.gauge("registered", text, lambda: verifier.registered)
            ready = {"predictor": forward.ready, "registered": registered}
            miner = MinerServer(
                edge, metrics, nonces, ready=ready, hotkeys=lambda: verifier.receivers, limits=settings.limits
            )

            def apply(settings: Settings, hotkey: Hotkey) -> None:
                logging.getLogger().setLevel(settings.log_level_number)
                verifier.policy = settings.policy
                # Validators that have not yet heard of a new key go on calling the one before.
                verifier.receivers = tuple(dict.fromkeys((hotkey.address, *verifier.receivers)))[:2]
                metagraph.change_hotkey(hotkey)
                edge.body_limit_bytes = settings.largest_body_bytes
                edge.answer_deadline_s = settings.answer_deadline_s
                forward.move_primary(settings.predictor_url)
                miner.set_limits(settings.limits)

            reloader = Reloader(environment, settings, hotkey, apply)
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
            loop.add_signal_handler(signal.SIGHUP, reloader.ask)
            event(
                logger,
                "started",
                hotkey=hotkey.address,
                network=settings.network,
                registered=verifier.registered,
                port=public.getsockname()[1],
                metrics_port=private.getsockname()[1],
                predictor_url=settings.predictor_url,
            )
            reloading = loop.create_task(reloader.run())
            await miner.run(public, private, stop=stop, drain_s=settings.drain_s)
            reloading.cancel()
    event(logger, "stopped")


class MinerServer:
    """Both ports of a miner, and the order in which they close.

    Args:
        edge: answers on the public port.
        metrics: shown on the operator's, with what the server itself knows.
        nonces: whose size is shown.
        ready: what else must hold for the miner to be ready.
        hotkeys: the addresses that it answers for now.
        limits: of what callers of the public port may take.
    """

    def __init__(
        self,
        edge: Edge,
        metrics: Metrics,
        nonces: NonceStore,
        *,
        ready: Mapping[str, Callable[[], Awaitable[bool]]],
        hotkeys: Callable[[], Sequence[str]],
        limits: Limits,
    ) -> None:
        self._accepting = True
        operator = Operator(metrics, {"accepting": self._is_accepting, **ready}, hotkeys)
        self._public = HttpServer(edge.answer, edge.refuse, limits=limits)
        self._private = HttpServer(operator.answer, operator.refuse, limits=Limits(connections_per_address=0))
        metrics.gauge("connections", "Open connections of callers", lambda: self._public.connections)
        metrics.gauge("bodies_bytes", "Memory that bodies in flight take", lambda: self._public.body_bytes)
        metrics.gauge("nonce_sessions", "Sessions whose newest nonce is remembered here", lambda: nonces.sessions)
        metrics.gauge("nonce_failures", "Nonces that could not be kept as they should", lambda: nonces.failures)

    def set_limits(self, limits: Limits) -> None:
        """Puts other limits in force for what comes next."""
        self._public.set_limits(limits)

    async def run(self, public: socket.socket, private: socket.socket, *, stop: asyncio.Event, drain_s: float) -> None:
        """Serves until `stop` is set; then is no longer ready, goes on for a moment, and answers what has arrived."""
        await self._public.listen(public)
        await self._private.listen(private)
        await stop.wait()
        self._accepting = False
        await asyncio.sleep(drain_s)
        await self._public.close(grace_s=_GRACE_S)
        await self._private.close(grace_s=1.0)

    async def _is_accepting(self) -> bool:
        return self._accepting


def forward_to(settings: Settings, metrics: Metrics, journal: PredictionLog | None) -> Forward:
    """The way to the predictors that the settings name, its attempts and its breaker among the metrics.

    What a challenger says goes to the prediction log.
    """

    def predictor(url: str) -> Predictor:
        return Predictor(url, model_name=settings.model_name)

    shadow = None
    if settings.shadow_url and journal:
        shadow = Shadow(predictor(settings.shadow_url), journal.shadow)
        metrics.gauge("shadow_in_flight", "Pictures on their way to the challenger", lambda: shadow.in_flight)
        metrics.gauge("shadow_answered", "Pictures that the challenger answered", lambda: shadow.answered)
        metrics.gauge("shadow_failed", "Pictures that it was asked about in vain", lambda: shadow.failed)
        metrics.gauge("shadow_dropped", "Pictures that nobody asked it about", lambda: shadow.dropped)
    breaker = Breaker()
    states = ("closed", "half_open", "open")
    text = "Of the primary predictor: 0 closed, 1 half open (a probe is on its way), 2 open (it is left alone)"
    metrics.gauge("breaker_state", text, lambda: states.index(breaker.state))
    return Forward(
        predictor(settings.predictor_url),
        predictor(settings.fallback_url) if settings.fallback_url else None,
        shadow=shadow,
        breaker=breaker,
        observe=metrics.attempted,
    )


@asynccontextmanager
async def metagraph_of(settings: Settings, hotkey: Hotkey, metrics: Metrics, *, port: int) -> AsyncGenerator[Metagraph]:
    """Who is on the network that the settings name, its age among the metrics.

    Args:
        settings: say how the chain is asked.
        hotkey: our own.
        metrics: are given what is known of the chain.
        port: where we listen.

    Raises:
        SettingsError: the file cannot be read, or the address cannot be announced.
    """

    def watch(metagraph: Metagraph) -> None:
        text = "Seconds since the neurons were known to be right, infinite before they ever were"
        metrics.gauge("metagraph_age_seconds", text, lambda: metagraph.age_s)

    if settings.metagraph_file is not None:
        listed = FileMetagraph(settings.metagraph_file)
        listed.change_hotkey(hotkey)
        watch(listed)
        yield listed
        return
    endpoint = Endpoint(port=settings.announce_port or port, ip=settings.announce_ip) if settings.announce else None
    chain = SubtensorChain(
        settings.network,
        netuid=settings.netuid,
        endpoints=settings.chain_endpoints,
        deadline_s=settings.chain_deadline_s,
    )
    async with ChainMetagraph(
        chain, hotkey, endpoint=endpoint, cache=settings.metagraph_cache, interval_s=settings.sync_interval_s
    ) as metagraph:
        watch(metagraph)
        text = "How often in a row the chain did not do what it was asked"
        metrics.gauge("chain_failures", text, lambda: metagraph.failures)
        yield metagraph


@asynccontextmanager
async def prediction_log(settings: Settings, metrics: Metrics) -> AsyncGenerator[PredictionLog | None]:
    """Where the settings say that challenges are written down, if anywhere.

    Raises:
        SettingsError: the limit or the bucket is unusable.
        BusyError: another process keeps its log in the folder.
        StorageError: the folder cannot be used.
    """
    if settings.spool_folder is None:
        yield None
        return
    async with kept_in(
        settings.spool_folder,
        replica=settings.replica,
        limit_bytes=settings.spool_limit_bytes,
        bucket=settings.bucket,
        bucket_prefix=settings.bucket_prefix,
        endpoint_url=settings.s3_endpoint_url,
        gauge=metrics.gauge,
    ) as log:
        yield log


@asynccontextmanager
async def nonce_store(settings: Settings) -> AsyncGenerator[NonceStore]:
    """Where the settings say that nonces are kept.

    Raises:
        StorageError: the nonce file cannot be used.
    """
    local = LocalNonces(settings.nonce_file)
    if settings.nonce_server is None:
        try:
            yield local
        finally:
            local.close()
        return
    # Few need it, and it takes a fifth of a second to import.
    from serving.miner.shared_nonces import SharedNonces

    shared = SharedNonces(settings.nonce_server.get_secret_value(), local)
    try:
        yield shared
    finally:
        await shared.close()


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
