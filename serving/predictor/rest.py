"""REST: KServe's server and endpoints, with a route of ours in front for the one request that matters.

KServe's own route spends most of its time between the body and the model: pydantic models, two log lines, a timing
middleware. Ours reads the same bodies and writes the same bytes.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotFound
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from numpy.typing import NDArray
from starlette.routing import Route

from serving import logs
from serving.predictor import wire
from serving.predictor.metrics import IMAGES
from serving.predictor.model import BusyPredictor, PredictorModel
from streetvision.errors import EngineError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
_INFER_PATH = re.compile(r"/v2/models/[^/]+/infer")
_OTHER_BODY_LIMIT = 64 * 1024  # of KServe's endpoints; none of them needs a body
_HELD_BODIES = 4  # the largest ones that may be in memory at once


class BodyTooLarge(Exception):  # noqa: N818  (named as KServe names its own)
    """A body beyond the limit: HTTP 413, and the connection is closed with the rest of it unread."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"body is too large, expected at most {limit} bytes")


class _ClientLeft(Exception):  # noqa: N818
    pass


class InferRoute:
    """`POST /v2/models/{model_name}/infer` of one model, as an ASGI application.

    What it raises is answered by the handlers of the application that it is mounted in.
    """

    def __init__(self, model: PredictorModel, *, body_limit: int) -> None:
        """Serves nothing by itself.

        Args:
            model: what answers.
            body_limit: the most bytes of one body; a larger one is refused before it is read. Four of that size may be
                held in memory; beyond that we are busy.
        """
        self._model = model
        self._body_limit = body_limit
        self._held = 0
        self._seconds = PREDICT_HIST_TIME.labels(**get_labels(model.name))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; one whose client leaves is dropped."""
        if scope["path_params"]["model_name"] != self._model.name:
            raise ModelNotFound(scope["path_params"]["model_name"])
        fields = {key: value.decode("latin-1") for key, value in scope["headers"]}
        parts: list[bytes] = []
        try:
            await self._read(parts, fields.get(b"content-length", "0"), receive)
            asked = _request(b"".join(parts), fields)
            with self._seconds.time():
                probability = await _unless_left(self._model.answer(asked.images), receive)
        except _ClientLeft:
            return
        finally:
            self._held -= sum(map(len, parts))
        reply, head = wire.reply(asked, probability, model_name=self._model.name, model_version=self._model.version)
        kind = (b"content-type", b"application/json") if head is None else (wire.HEADER_LENGTH.encode(), b"%d" % head)
        headers = [(b"content-length", b"%d" % len(reply)), kind]
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _read(self, parts: list[bytes], declared: str, receive: Receive) -> None:
        """Fills `parts` with the body, as far as it and all others may grow."""
        size, more, held_limit = 0, True, _HELD_BODIES * self._body_limit
        if not declared.isdecimal() or int(declared) > self._body_limit:
            raise BodyTooLarge(self._body_limit)
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
            size += len(parts[-1])
            self._held += len(parts[-1])
            if size > self._body_limit:
                raise BodyTooLarge(self._body_limit)
            if self._held > held_limit:
                raise BusyPredictor(
                    self._model.name, f"requests hold {self._held} bytes, expected at most {held_limit}"
                )


def _request(body: bytes, fields: dict[bytes, str]) -> wire.Request:
    try:
        return wire.request(
            body,
            content_type=fields.get(b"content-type", "").lower(),
            header_length=fields.get(wire.HEADER_LENGTH.encode()),
        )
    except InvalidInput:
        IMAGES.labels("refused").inc()
        raise


async def _unless_left(answer: Awaitable[NDArray[np.float32]], receive: Receive) -> NDArray[np.float32]:
    """The answer, given up where the client leaves before it."""
    task = asyncio.current_task()
    assert task is not None

    def give_up(_: object) -> None:
        task.cancel()

    leaving = asyncio.ensure_future(receive())  # behind the body comes nothing else
    leaving.add_done_callback(give_up)
    try:
        return await answer
    except asyncio.CancelledError:
        if not leaving.done():
            raise  # it is the server that stops
        task.uncancel()
        raise _ClientLeft from None
    finally:
        leaving.remove_done_callback(give_up)
        leaving.cancel()


class _SmallBodies:
    """Refuses what endpoints other than ours would buffer for nothing."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _INFER_PATH.fullmatch(scope["path"]):
            fields = dict(scope["headers"])
            declared = fields.get(b"content-length", b"0")
            if b"transfer-encoding" in fields or not declared.isdigit() or int(declared) > _OTHER_BODY_LIMIT:
                await _refusal(BodyTooLarge(_OTHER_BODY_LIMIT))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class RestServer(RESTServer):
    """KServe's HTTP server with our route, without its timing middleware, and stopped by `stop` alone."""

    def __init__(
        self,
        model: PredictorModel,
        dataplane: DataPlane,
        repository: ModelRepositoryExtension,
        *,
        body_limit: int,
        host: str | None = None,
        port: int = 8080,
        **options: Any,
    ) -> None:
        """Opens no port before `start`.

        Args:
            model: what the infer route asks.
            dataplane: what KServe's endpoints ask.
            repository: what its endpoints for loading and unloading ask.
            body_limit: the most bytes of the body of one inference.
            host: address to listen on; all of IPv4 by default.
            port: TCP port.
            options: KServe's own: grace_period, timeout_keep_alive, event_loop, ssl_certfile, ssl_keyfile.
        """
        super().__init__("set by create_application", dataplane, repository, port, **options)
        self._route = InferRoute(model, body_limit=body_limit)
        if host is not None:
            self.config.host = host
        # Uvicorn would stop at the first signal; the process has more to do then.
        self._server.capture_signals = contextlib.nullcontext  # pyright: ignore[reportAttributeAccessIssue]

    def create_application(self) -> None:
        """Sets the ASGI application: KServe's endpoints and error handlers behind ours."""
        app = FastAPI(title="StreetVision predictor", docs_url=None, redoc_url=None, openapi_url=None)
        app.router.routes += [
            Route("/v2/models/{model_name}/infer", self._route, methods=["POST"]),
            Route("/v1/models/{path:path}", _no_v1, methods=["POST"]),
        ]
        app.add_middleware(_SmallBodies)
        self._register_endpoints(app)
        self._add_exception_handlers(app)
        for kind in (BusyPredictor, BodyTooLarge, EngineError, NotImplementedError, RequestValidationError):
            app.add_exception_handler(kind, _refused)
        self.config.app = app

    def stop(self) -> None:
        """Lets `start` return, once what is in flight is answered or the grace period is over."""
        self._server.should_exit = True


async def _no_v1(request: Request) -> Response:
    raise InvalidInput(f"protocol v1 is not spoken at {request.url.path}, expected POST /v2/models/{{name}}/infer")


async def _refused(_: Request, err: Exception) -> Response:
    return _refusal(err)


def _refusal(err: Exception) -> Response:
    """The answer to what KServe has no answer for."""
    headers: dict[str, str] = {}
    match err:
        case BusyPredictor():
            status, headers = HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": "1"}
        case BodyTooLarge():
            IMAGES.labels("refused").inc()
            status, headers = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"connection": "close"}  # its rest is not read
        case NotImplementedError():  # kserve's, for every path with a version and nothing else
            sentence = "no version is served by itself, expected `/v2/models/{name}` without `/versions/{version}`"
            return JSONResponse({"error": sentence}, HTTPStatus.NOT_FOUND)
        case RequestValidationError():
            problem = err.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            return JSONResponse({"error": f"request is unusable: `{where}`: {problem['msg']}"}, HTTPStatus.BAD_REQUEST)
        case _:
            logs.event(_log, "engine failed", level=logging.ERROR, reason=str(err))
            status = HTTPStatus.INTERNAL_SERVER_ERROR
    return JSONResponse({"error": str(err)}, status, headers)
