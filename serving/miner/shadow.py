"""A challenger that sees what was answered, and whose own answers are only written down."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serving.logs import event
from serving.miner.predictor import AskError, Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowAnswer:
    """What the challenger would have answered.

    Attributes:
        request_id: of the challenge.
        probability: in [0, 1] and never 0.5.
        model_version: of the challenger.
        latency_ms: from the question to the answer.
    """

    request_id: str
    probability: float
    model_version: str
    latency_ms: float


class Shadow:
    """Asks a challenger about pictures that were answered already, so that nobody waits for it.

    Few pictures are on their way at a time; while a slow challenger holds them all, further ones are dropped.

    Args:
        challenger: who is asked.
        heard: is told of every answer.
        in_flight: pictures on their way at a time, and so the memory that they hold.
        timeout_s: for one answer.

    Attributes:
        answered: how many pictures were.
        failed: how many were asked about in vain.
        dropped: how many nobody was asked about.
    """

    def __init__(
        self,
        challenger: Predictor,
        heard: Callable[[ShadowAnswer], None],
        *,
        in_flight: int = 8,
        timeout_s: float = 8.5,
    ) -> None:
        self.answered = self.failed = self.dropped = 0
        self._challenger = challenger
        self._heard = heard
        self._limit = in_flight
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._challenger.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives up what is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._challenger.__aexit__(kind, error, traceback)

    @property
    def in_flight(self) -> int:
        """Pictures on their way."""
        return len(self._tasks)

    def ask(self, request_id: str, image: bytes) -> None:
        """Has the challenger asked, or drops the picture; never waits and never raises."""
        if len(self._tasks) >= self._limit:
            self.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._ask(request_id, image))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, request_id: str, image: bytes) -> None:
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._challenger.ask(image)
        except (AskError, TimeoutError) as err:
            self.failed += 1
            event(logger, "shadow_failed", reason=err.reason if isinstance(err, AskError) else "late", message=str(err))
            return
        self.answered += 1
        self._heard(
            ShadowAnswer(
                request_id=request_id,
                probability=answer.probability,
                model_version=answer.model_version,
                latency_ms=(now_s() - begun_s) * 1e3,
            )
        )
