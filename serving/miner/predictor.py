"""One predictor, asked by the Open Inference Protocol v2: JSON over REST, the picture as base64 text.

Every server of KServe takes this form, and it costs no more than the others (docs/decisions.md).
"""

import asyncio
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
import orjson
import pybase64
from multidict import CIMultiDictProxy

from streetvision.errors import PredictorError

_HEADERS = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
_KEEP_ALIVE_S = 60.0  # KServe hangs up after 65 s, and would do so on a request on its way
_REPLY_LIMIT_BYTES = 64 * 1024
_QUOTED = 200
_WHOLE_BYTES = 2**20  # aiohttp warns of more in one piece

Reason = Literal["unreachable", "late", "busy", "refused", "failed", "unusable_answer", "error"]


class AskError(PredictorError):
    """A predictor that gave no usable answer, and why.

    Attributes:
        reason: `unreachable`, `late`, `busy`, `refused` (the picture), `failed` (an HTTP status of its own),
            `unusable_answer`, or `error` of our own.
        retry_after_s: what a busy one asked for.
    """

    def __init__(self, message: str, *, reason: Reason, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def blames_predictor(self) -> bool:
        """Whether something is wrong with the predictor, and not with the picture or the load."""
        return self.reason not in ("busy", "refused")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a predictor said.

    Attributes:
        probability: of roadwork, in [0, 1] and never 0.5.
        model_version: of the model that said it, empty where the server tells none.
    """

    probability: float
    model_version: str


class Predictor:
    """Asks a predictor about pictures that are never looked at here.

    Connections are kept alive. Made in a running event loop, and closed as an asynchronous context.

    Args:
        url: base of the predictor's REST address, as in `http://roadwork-predictor`.
        model_name: name of the model there.
    """

    def __init__(self, url: str, *, model_name: str) -> None:
        self._model_name = model_name
        self.move(url)
        self._kept = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S))
        self._fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._kept.close()
        await self._fresh.close()

    def move(self, url: str) -> None:
        """Asks at another address from the next question on."""
        self.url = url
        self._infer_url = f"{url}/v2/models/{self._model_name}/infer"
        self._ready_url = f"{url}/v2/models/{self._model_name}/ready"

    async def ask(self, image: bytes, *, fresh: bool = False) -> Answer:
        """The answer for one encoded picture, however long that takes.

        Args:
            image: the picture.
            fresh: over a connection of its own, which a load balancer may lead to another replica.

        Raises:
            AskError: there is no usable answer.
        """
        session = self._fresh if fresh else self._kept
        try:
            async with session.post(self._infer_url, data=_request(image), allow_redirects=False) as response:
                body = await _read(response.content)
        except aiohttp.ClientResponseError as err:
            raise AskError(f"it speaks no HTTP: {err}"[:_QUOTED], reason="unusable_answer") from err
        except (aiohttp.ClientError, OSError) as err:
            raise AskError(f"it is out of reach: {str(err) or type(err).__name__}", reason="unreachable") from err
        if len(body) > _REPLY_LIMIT_BYTES:
            raise AskError(f"its reply has more than {_REPLY_LIMIT_BYTES} bytes", reason="unusable_answer")
        if response.status != 200:
            raise _refusal(response.status, response.headers, body)
        return _answer(body, self._model_name)

    async def ready(self, *, timeout_s: float) -> bool:
        """Whether the server says within `timeout_s` that the model is ready."""
        try:
            async with asyncio.timeout(timeout_s), self._fresh.get(self._ready_url, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):  # also TimeoutError
            return False


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        headers=_HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # whoever asks has a deadline
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


def _request(image: bytes) -> bytes | BytesIO:
    # Base64 needs no escaping in JSON, so the text goes in as it is.
    body = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["%b"]}]}' % pybase64.b64encode(image)
    return BytesIO(body) if len(body) > _WHOLE_BYTES else body


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The whole body, or a little more than the limit of one that is longer."""
    body = b""
    async for piece in content.iter_any():
        body += piece
        if len(body) > _REPLY_LIMIT_BYTES:
            break
    return body


def _refusal(status: int, headers: CIMultiDictProxy[str], body: bytes) -> AskError:
    message = f"it answered {status}: `{_text(body)}`"
    after = headers.get("retry-after", "")
    if status == 503 and after.isascii() and after.isdigit() and len(after) < 10:
        return AskError(message, reason="busy", retry_after_s=float(after))
    return AskError(message, reason="refused" if status in (400, 413, 422) else "failed")


def _answer(body: bytes, model_name: str) -> Answer:
    """The answer in a reply.

    Raises:
        AskError: it is not what one picture gets from this model.
    """
    try:
        reply: Any = orjson.loads(body)
    except ValueError as err:
        raise AskError(f"it answered no JSON: `{_text(body)}`", reason="unusable_answer") from err
    match reply:
        case {
            "model_name": name,
            "outputs": [{"name": "probability", "datatype": "FP32", "shape": [1], "data": [float() | int() as value]}],
        } if name == model_name and type(value) is not bool:
            version: Any = reply.get("model_version")
        case _:
            raise AskError(
                f"it answered `{_text(body)}`, expected one FP32 `probability` of `{model_name}`",
                reason="unusable_answer",
            )
    if not 0.0 <= value <= 1.0 or value == 0.5:  # one half is no answer, and NaN is in no range
        raise AskError(f"it answered {value}, expected a number in [0, 1] other than 0.5", reason="unusable_answer")
    return Answer(float(value), version if isinstance(version, str) else "")


def _text(body: bytes) -> str:
    return body[:_QUOTED].decode(errors="replace")
