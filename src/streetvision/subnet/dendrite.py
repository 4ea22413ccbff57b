"""The validator's side of the wire: signed challenges out, what a validator records back."""

import asyncio
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import Self

import httpx
from bittensor_wallet import Keypair

from streetvision.subnet.protocol import NO_ANSWER, build_request, parse_reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a validator records for one challenge.

    Attributes:
        prediction: -1 for no answer, and whatever else a miner may say.
        error: why there is no usable reply (`timeout`, `cannot connect`, `HTTP 403` ...), empty where there is one.
        latency_ms: from the first byte sent to the reply or the error.
    """

    prediction: float
    error: str
    latency_ms: float


class Dendrite:
    """One session of a validator: its key, its connections and its ever-growing nonce.

    A miner is asked one thing at a time: it would take a request that another one overtakes for a replay.

    Args:
        keypair: the validator's hotkey.
        route: one of `protocol.ROUTES`.
        timeout_s: for connect, upload, inference and download together.
    """

    def __init__(self, keypair: Keypair, *, route: str, timeout_s: float) -> None:
        self._keypair = keypair
        self._route = route
        self._timeout_s = timeout_s
        self._uuid = str(uuid.uuid4())
        self._nonce_ns = 0
        self._turn = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._http = httpx.AsyncClient(timeout=None, trust_env=False)  # noqa: S113 - one deadline over all, below

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, url: str, hotkey: str, image: bytes) -> Answer:
        """The answer of the miner at `url` to one encoded picture; no failure of a miner raises."""
        async with self._turn[url]:
            return await self._ask(url, hotkey, image)

    async def _ask(self, url: str, hotkey: str, image: bytes) -> Answer:
        address = httpx.URL(url)
        self._nonce_ns = max(self._nonce_ns + 1, time.time_ns())
        headers, body = build_request(
            image,
            route=self._route,
            sender=self._keypair.ss58_address,
            receiver=hotkey,
            uuid=self._uuid,
            nonce_ns=self._nonce_ns,
            sign=self._keypair.sign,
            host=address.host,
            port=address.port or 80,
            timeout_s=self._timeout_s,
        )
        start_s = time.perf_counter()
        prediction, error = NO_ANSWER, ""
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._http.post(url + self._route, headers=headers, content=body)
        except TimeoutError:
            error = "timeout"
        except httpx.ConnectError:
            error = "cannot connect"
        except httpx.HTTPError as err:
            error = f"connection broke: {type(err).__name__}"
        else:
            if reply.status_code == 200:
                prediction = parse_reply(reply.content)
            else:
                error = f"HTTP {reply.status_code}"
        if prediction != NO_ANSWER and not 0.0 <= prediction <= 1.0:
            error = "prediction outside [0, 1]"
        return Answer(prediction=prediction, error=error, latency_ms=(time.perf_counter() - start_s) * 1e3)
