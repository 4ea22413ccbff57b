"""The way to the predictor: Open Inference Protocol v2 over one pool of kept-alive connections."""

import asyncio
from types import TracebackType
from typing import Any, Self, cast

import httpx

from streetvision.errors import PredictorError


class PredictorClient:
    """Asks a predictor about pictures it never looks at itself.

    A picture travels as the base64 text it came in. A request that met a connection the predictor had just closed is
    sent once more.

    Args:
        url: base of the predictor's REST address.
        model_name: name of the model there.
    """

    def __init__(self, url: str, *, model_name: str) -> None:
        self._infer_url = f"{url}/v2/models/{model_name}/infer"
        self._ready_url = f"{url}/v2/models/{model_name}/ready"
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(retries=0, limits=httpx.Limits(max_keepalive_connections=32)),
            timeout=None,  # every call has a deadline of its own  # noqa: S113
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def predict(self, image: str, *, deadline_s: float) -> float:
        """P(roadwork) in [0, 1] of one encoded picture.

        Args:
            image: the picture as base64 text.
            deadline_s: the event loop's time after which the answer is worthless.

        Raises:
            PredictorError: the predictor is out of reach, late or wrong.
        """
        # Base64 needs no escaping in JSON, so the text goes in as it is.
        body = f'{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[1],"data":["{image}"]}}]}}'.encode()
        try:
            async with asyncio.timeout_at(deadline_s):
                try:
                    response = await self._post(body)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    response = await self._post(body)
        except TimeoutError as err:
            raise PredictorError("predictor did not answer in time") from err
        except httpx.HTTPError as err:
            raise PredictorError(f"predictor is out of reach: {err or type(err).__name__}") from err
        if response.status_code != 200:
            raise PredictorError(f"predictor answered {response.status_code}: `{response.text[:200]}`")
        return _probability(response)

    async def ready(self) -> bool:
        """Whether the predictor says that the model is ready."""
        try:
            response = await self._http.get(self._ready_url, timeout=2.0)
        except httpx.HTTPError:
            return False
        return response.status_code == 200

    async def _post(self, body: bytes) -> httpx.Response:
        return await self._http.post(self._infer_url, content=body, headers={"content-type": "application/json"})


def _probability(response: httpx.Response) -> float:
    try:
        outputs = cast(list[dict[str, Any]], response.json()["outputs"])
        values = next(output["data"] for output in outputs if output["name"] == "probability")
        probability = float(values[0])
    except (ValueError, KeyError, TypeError, IndexError, StopIteration, RecursionError) as err:
        raise PredictorError(f"predictor answered no `probability`: `{response.text[:200]}`") from err
    if len(values) != 1 or not 0.0 <= probability <= 1.0:  # also refuses NaN
        raise PredictorError(f"predictor answered `{values}`, expected one number in [0, 1]")
    return probability
