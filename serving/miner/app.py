"""The two ASGI applications of the miner: the routes validators call, and metrics with health."""

import asyncio
import logging
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.logs import event
from serving.miner.metrics import Metrics
from serving.miner.verification import Verifier
from streetvision.errors import PredictorError, WireError
from streetvision.subnet.protocol import NO_ANSWER, ROUTES, parse_body, reply_body, reply_headers

logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """What the edge needs of a predictor."""

    async def predict(self, image: str, *, deadline_s: float) -> float:
        """P(roadwork) of a picture in base64; raises `PredictorError`."""
        ...

    async def ready(self) -> bool:
        """Whether it would answer now."""
        ...


class Edge:
    """Answers challenges: refuses what is not one, and abstains where the predictor has no answer.

    Args:
        verifier: decides on the headers.
        predictor: gives the probability.
        metrics: counts what happens.
        body_limit_bytes: larger bodies are refused, without being read where their length is declared.
        body_timeout_s: how long a caller may take to send the body.
        answer_deadline_s: from the arrival of the headers to the answer.
    """

    def __init__(
        self,
        verifier: Verifier,
        predictor: Predictor,
        metrics: Metrics,
        *,
        body_limit_bytes: int,
        body_timeout_s: float,
        answer_deadline_s: float,
    ) -> None:
        self._verifier = verifier
        self._predictor = predictor
        self._metrics = metrics
        self._body_limit_bytes = body_limit_bytes
        self._body_timeout_s = body_timeout_s
        self._answer_deadline_s = answer_deadline_s

    async def challenge(self, request: Request) -> Response:
        """The answer to one request on a subnet route."""
        clock = asyncio.get_running_loop().time
        arrival_s = clock()
        try:
            self._check_declared_size(request)
            caller = self._verifier.verify(request.headers)
            image = parse_body(await self._body(request))
        except WireError as err:
            return self._refusal(err)
        prediction = await self._predict(image, caller=caller.hotkey, deadline_s=arrival_s + self._answer_deadline_s)
        seconds = clock() - arrival_s
        outcome = "abstained" if prediction == NO_ANSWER else "answered"
        self._metrics.answered(caller.hotkey, outcome=outcome, seconds=seconds)
        event(logger, outcome, level=logging.DEBUG, validator=caller.hotkey, latency_ms=round(seconds * 1e3, 2))
        name = request.url.path.removeprefix("/")
        return Response(
            reply_body(name, prediction),
            headers=reply_headers(name, process_time_s=seconds),
            media_type="application/json",
        )

    async def _predict(self, image: str, *, caller: str, deadline_s: float) -> float:
        try:
            return await self._predictor.predict(image, deadline_s=deadline_s)
        except PredictorError as err:
            event(logger, "abstain", level=logging.WARNING, validator=caller, reason=err.message)
        except Exception:
            logger.exception("abstain: unforeseen error while predicting")
        return NO_ANSWER

    def _check_declared_size(self, request: Request) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._body_limit_bytes:
            raise self._too_large(f"{declared} bytes")

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._body_limit_bytes:
                        raise self._too_large("more")
        except TimeoutError as err:
            raise WireError(
                f"body was not complete after {self._body_timeout_s:g} s", status=408, reason="slow_body"
            ) from err
        except ClientDisconnect as err:
            raise WireError("caller hung up before the body was complete", reason="disconnected") from err
        return bytes(body)

    def _too_large(self, got: str) -> WireError:
        return WireError(
            f"body has {got}, expected at most {self._body_limit_bytes} bytes", status=413, reason="too_large"
        )

    def _refusal(self, err: WireError) -> Response:
        self._metrics.refused(err.reason)
        event(logger, "refused", level=logging.DEBUG, status=err.status, reason=err.reason, message=err.message)
        # Where the rest of the body is unwelcome the connection ends; else it may carry the next challenge.
        headers = {"connection": "close"} if err.status in (408, 413) else None
        return JSONResponse({"message": err.message}, status_code=err.status, headers=headers)


def subnet_app(edge: Edge) -> Starlette:
    """The application on the public port: two routes that take POST, and 404 for anything else."""
    app = Starlette(
        routes=[Route(path, edge.challenge, methods=["POST"]) for path in ROUTES],
        exception_handlers={HTTPException: _not_found},
    )
    app.router.redirect_slashes = False
    return app


async def _not_found(request: Request, _error: Exception) -> Response:
    return JSONResponse({"message": f"nothing is served at {request.method} `{request.url.path}`"}, status_code=404)


def operator_app(metrics: Metrics, predictor: Predictor) -> Starlette:
    """The application on the private port: `/metrics`, `/health/live` and `/health/ready`."""

    async def metrics_text(_: Request) -> Response:
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        ready = await predictor.ready()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    return Starlette(
        routes=[Route("/metrics", metrics_text), Route("/health/live", live), Route("/health/ready", ready)]
    )
