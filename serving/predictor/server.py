"""The predictor process: settings, KServe's server, and what it logs and refuses."""

import argparse
import contextlib
import logging
import os
import socket
import time
import warnings
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from fastapi import Request
from fastapi.exceptions import FastAPIDeprecationWarning, RequestValidationError
from fastapi.responses import JSONResponse
from kserve import ModelServer
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.model_server import app
from kserve.model_server import parser as kserve_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving import logs
from serving.predictor.dataplane import FixedRepository, PredictorDataPlane
from serving.predictor.model import BusyPredictor, PredictorModel
from serving.predictor.wire import first_problem
from streetvision.errors import BusyError, SettingsError
from streetvision.imaging import DECODE_LIMIT_MAX_PX, DECODE_LIMIT_PX
from streetvision.inference.classifier import Classifier, EngineName

_log = logging.getLogger(__name__)
_REFUSALS = (InvalidInput, ModelNotFound, ModelNotReady)


class Settings(BaseModel):
    """Everything this process can be told, beside what KServe's own options tell KServe."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())  # KServe reads the rest itself

    model_dir: Path
    model_name: str
    http_port: int = Field(ge=1, le=65535)
    grpc_port: int = Field(ge=1, le=65535)
    enable_grpc: bool
    workers: Literal[1]
    engine: EngineName
    threads: int | None = Field(ge=1)
    request_workers: int = Field(ge=1, le=64)
    queue_limit: int = Field(ge=32)
    decode_limit_px: int = Field(ge=1, le=DECODE_LIMIT_MAX_PX)
    grace_period_s: int = Field(ge=0)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"]

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> "Settings":
        """The settings of a command line; a malformed one ends the process as argparse does.

        Raises:
            SettingsError: a value is out of its range.
        """
        values = vars(_parser().parse_args(arguments))
        try:
            return cls.model_validate(values)
        except ValidationError as err:
            raise SettingsError(
                f"option --{first_problem(err).replace('`', '')}", hint="see `python -m serving.predictor --help`"
            ) from err


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.predictor",
        description="Serve a model directory by the Open Inference Protocol v2 over REST and gRPC.",
        parents=[kserve_parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(model_name="roadwork")
    own = parser.add_argument_group("streetvision")
    own.add_argument("--model-dir", "--model_dir", type=Path, default=Path("/mnt/models"), help="the model directory")
    own.add_argument("--engine", default="onnx", help="what runs the model: onnx")
    own.add_argument("--threads", type=int, help="cores one inference may use; default: all this process may use")
    own.add_argument("--request-workers", type=int, default=2, help="requests worked on at once")
    own.add_argument("--queue-limit", type=int, default=128, help="pictures that may wait before 503 is answered")
    own.add_argument("--decode-limit-px", type=int, default=DECODE_LIMIT_PX, help="the most pixels of one picture")
    own.add_argument("--grace-period-s", type=int, default=10, help="seconds that requests in flight have at the end")
    own.add_argument("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR")
    return parser


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; the ports open once the model is ready.

    Raises:
        BusyError: a port is in use.
        ModelDirectoryError: a file of the model directory is missing or altered.
        EngineError: the engine cannot load the model, or failed on a fixture picture.
    """
    _assert_free([settings.http_port, *([settings.grpc_port] if settings.enable_grpc else [])])
    started = time.monotonic()
    classifier = Classifier.open(
        settings.model_dir, engine=settings.engine, threads=settings.threads, limit_px=settings.decode_limit_px
    )
    model = PredictorModel(
        settings.model_name, classifier, workers=settings.request_workers, queue_limit=settings.queue_limit
    )
    model.load()
    _configure_logs(settings.log_level)  # not before: what stops a start is one sentence, not a log line
    logs.event(
        _log,
        "model ready",
        model=model.name,
        model_version=model.version,
        model_dir=str(settings.model_dir),
        load_s=round(time.monotonic() - started, 3),
        http_port=settings.http_port,
        grpc_port=settings.grpc_port if settings.enable_grpc else None,
        **classifier.engine.describe(),
    )
    server = ModelServer(
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        enable_grpc=settings.enable_grpc,
        enable_latency_logging=False,
        grace_period=settings.grace_period_s,
    )
    server.dataplane = PredictorDataPlane(server.registered_models)
    server.model_repository_extension = FixedRepository(server.registered_models)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(BusyPredictor, _busy)
    server.start([model])
    logs.event(_log, "stopped")


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


def _assert_free(ports: list[int]) -> None:
    """Refuses ports in use; gRPC alone would share one with the server that holds it."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            try:
                if socket.has_dualstack_ipv6():
                    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
                else:
                    listener = socket.create_server(("", port))
            except OSError as err:
                raise BusyError(
                    f"port {port} cannot be opened: {os.strerror(err.errno or 0)}",
                    hint="choose others with --http_port and --grpc_port, or stop what listens there",
                ) from err
            stack.enter_context(listener)


async def _malformed(_: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, RequestValidationError)
    problem = err.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return JSONResponse({"error": f"request is unusable: `{where}`: {problem['msg']}"}, HTTPStatus.BAD_REQUEST)


async def _busy(_: Request, err: Exception) -> JSONResponse:
    return JSONResponse({"error": str(err)}, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "1"})
