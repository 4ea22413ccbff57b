"""The predictor process: both servers over one model, from the first log line to the last."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
import warnings

from fastapi.exceptions import FastAPIDeprecationWarning
from grpc import aio
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.model_repository import ModelRepository
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer

from serving import logs
from serving.predictor.dataplane import FixedRepository, PredictorDataPlane
from serving.predictor.model import PredictorModel
from serving.predictor.rest import RestServer
from serving.predictor.settings import Settings
from streetvision.errors import BusyError
from streetvision.inference.classifier import Classifier

_log = logging.getLogger(__name__)
_REFUSALS = (InvalidInput, ModelNotFound, ModelNotReady)


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; the ports open once the model is ready.

    Raises:
        BusyError: a port is in use.
        ModelDirectoryError: a file of the model directory is missing or altered.
        EngineError: the engine cannot load the model, or failed on a fixture picture.
    """
    _assert_free(settings)
    _configure_logs(settings.log_level)
    begun_s = time.monotonic()
    classifier = Classifier.open(
        settings.model_dir,
        engine=settings.engine,
        threads=settings.threads,
        limit_px=settings.decode_limit_px,
        engine_cache=settings.engine_cache,
        precision=settings.precision,
    )
    serve_classifier(settings, classifier, begun_s=begun_s)


def serve_classifier(settings: Settings, classifier: Classifier, *, begun_s: float) -> None:
    """As `serve`, with a classifier that was opened before, at `begun_s` of the monotonic clock."""
    model = PredictorModel(
        settings.model_name,
        classifier,
        decode_workers=settings.decode_workers,
        decode_limit_s=settings.decode_limit_s,
        queue_limit=settings.queue_limit,
    )
    model.load()
    engine = classifier.engine.describe()
    logs.event(
        _log,
        "model ready",
        level=logging.WARNING if engine.get("fallback_reason") else logging.INFO,
        model=model.name,
        model_version=model.version,
        model_dir=str(settings.model_dir),
        load_s=round(time.monotonic() - begun_s, 3),
        http_port=settings.http_port,
        grpc_port=settings.grpc_port if settings.enable_grpc else None,
        **engine,
    )
    repository = ModelRepository()
    repository.update(model)
    dataplane = PredictorDataPlane(repository)
    rest = RestServer(
        model,
        dataplane,
        FixedRepository(repository),
        body_limit=settings.body_limit,
        host=settings.host,
        port=settings.http_port,
        grace_period=settings.grace_period_s,
        event_loop=settings.event_loop,
        timeout_keep_alive=settings.timeout_keep_alive,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    gc.freeze()  # else every full collection walks all that was imported, which takes 0.1 s
    gc.enable()
    with asyncio.Runner(loop_factory=rest.config.get_loop_factory()) as runner:
        runner.run(_serve(settings, model, rest, dataplane))
    model.close()
    logs.event(_log, "stopped")


async def _serve(settings: Settings, model: PredictorModel, rest: RestServer, dataplane: PredictorDataPlane) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    grpc = await _start_grpc(settings, dataplane) if settings.enable_grpc else None
    serving = asyncio.create_task(rest.start())
    await asyncio.wait([serving, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    model.ready = False  # who balances the load sends no more
    await asyncio.sleep(settings.drain_s)
    rest.stop()
    if grpc is not None:
        await grpc.stop(settings.grace_period_s)
    await serving


async def _start_grpc(settings: Settings, dataplane: PredictorDataPlane) -> aio.Server:
    server = aio.server(
        interceptors=(ExceptionToStatusInterceptor(),),
        options=[
            ("grpc.max_send_message_length", settings.grpc_max_send_message_length),
            ("grpc.max_receive_message_length", settings.grpc_max_receive_message_length),
        ],
    )
    servicer = InferenceServicer(dataplane, FixedRepository(dataplane.model_registry))
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    host = settings.host or "::"
    server.add_insecure_port(f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}")
    await server.start()
    return server


def _configure_logs(level: str) -> None:
    logs.configure(level)
    logging.getLogger("kserve").setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(_no_refusals)
    logging.getLogger("kserve.trace").setLevel(logging.ERROR)  # two lines a request
    warnings.simplefilter("ignore", FastAPIDeprecationWarning)  # kserve's to mend, not an operator's
    logging.getLogger("uvicorn.access").propagate = False  # no handler: uvicorn writes no access line at all


def _no_refusals(record: logging.LogRecord) -> bool:
    """Drops the traceback kserve logs for a request that was merely refused; the counter of refusals stays."""
    return not (record.exc_info and isinstance(record.exc_info[1], _REFUSALS))


def _assert_free(settings: Settings) -> None:
    """Refuses ports in use; gRPC alone would share one with the server that holds it."""
    with contextlib.ExitStack() as stack:
        for port in [settings.http_port, *([settings.grpc_port] if settings.enable_grpc else [])]:
            try:
                stack.enter_context(_listener(settings.host, port))
            except OSError as err:
                raise BusyError(
                    f"port {port} cannot be opened: {os.strerror(err.errno or 0)}",
                    hint="choose others with --http_port and --grpc_port, or stop what listens there",
                ) from err


def _listener(host: str | None, port: int) -> socket.socket:
    if host is not None:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
