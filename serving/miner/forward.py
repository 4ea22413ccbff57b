"""From a picture to what is answered: the primary predictor, once more, the fallback, or no answer; never late."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from serving.logs import event
from serving.miner.breaker import Breaker
from serving.miner.predictor import Answer, AskError, Predictor
from serving.miner.shadow import Shadow
from streetvision.subnet.protocol import NO_ANSWER

logger = logging.getLogger(__name__)

PATIENCE_S = 2.5
# Of the time that is left when a picture arrives; two such shares are gone when the fallback is asked.
_PATIENCE_SHARE = 0.3
_READY_S = 0.8  # a kubelet waits for a second

AnsweredBy = Literal["primary", "fallback", ""]
Step = Literal["primary", "retry", "fallback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of asking the predictors about one picture.

    Attributes:
        prediction: in [0, 1] and never 0.5, or -1 for no answer.
        answered_by: whose it is, empty where there is none.
        reason: why there is none, one of few words; empty where there is one.
        parts_ms: how long each attempt took, by `primary`, `retry` and `fallback`; they may overlap.
        model_version: of the model that answered.
        attempts: how often a predictor was asked.
    """

    prediction: float
    answered_by: AnsweredBy
    reason: str
    parts_ms: Mapping[str, float]
    model_version: str
    attempts: int


class Forward:
    """Asks one predictor after the other until one answers; the first good answer counts.

    The next one is asked as soon as nobody is left to wait for, or the last one asked has not answered for
    `patience_s`; whoever was asked before may still answer. The order is: primary, the primary once more over a
    connection of its own (another replica may take it), fallback. A picture that the primary refuses goes to the
    fallback at once, whose limits may be others. So does the picture that meets a busy primary, which is asked again
    only if the fallback has no answer. While the breaker is open the fallback is asked first, and the primary only
    where that fails.

    Args:
        primary: whose answers are wanted.
        fallback: asked where the primary has none; None for nobody.
        shadow: gets the pictures that were answered; None for nobody.
        breaker: of the primary.
        patience_s: less where less than 8.3 s are left in all, so that everybody gets a turn.
        observe: is told of every attempt: whom it asked, and `ok` or why it failed.
    """

    def __init__(
        self,
        primary: Predictor,
        fallback: Predictor | None = None,
        *,
        shadow: Shadow | None = None,
        breaker: Breaker | None = None,
        patience_s: float = PATIENCE_S,
        observe: Callable[[str, str], None] = lambda _asked, _result: None,
    ) -> None:
        self.primary = primary
        self.fallback = fallback
        self.shadow = shadow
        self.breaker = breaker or Breaker()
        self.patience_s = patience_s
        self.observe = observe
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for part in (self.primary, self.fallback, self.shadow):
                if part is not None:
                    await stack.enter_async_context(part)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def predict(self, image: bytes, *, deadline_s: float) -> Outcome:
        """The outcome for one encoded picture, at the latest at `deadline_s` on the event loop's clock; never raises.

        Args:
            image: the picture, which is not looked at here.
            deadline_s: when an answer is worthless.
        """
        return await _Race(self, image, deadline_s).run()

    def move_primary(self, url: str) -> None:
        """Asks the primary at another address from the next picture on; nothing is held against it there."""
        if url != self.primary.url:
            self.primary.move(url)
            self.breaker.succeeded()

    async def ready(self) -> bool:
        """Whether one of the predictors says that it would answer now."""
        asked = [self.primary, *([self.fallback] if self.fallback else [])]
        saying = [asyncio.create_task(predictor.ready(timeout_s=_READY_S)) for predictor in asked]
        try:
            for said in asyncio.as_completed(saying):
                if await said:
                    return True
        finally:
            for task in saying:
                task.cancel()
        return False

    def after(self, request_id: str, image: bytes) -> None:
        """Shows a picture that was answered to the shadow; never waits."""
        if self.shadow is not None:
            self.shadow.ask(request_id, image)


@dataclass(slots=True)
class _Attempt:
    """One question to one predictor."""

    step: Step
    begun_s: float
    failed: bool = False

    @property
    def asks(self) -> Literal["primary", "fallback"]:
        return "fallback" if self.step == "fallback" else "primary"


class _Race:
    """The attempts for one picture."""

    def __init__(self, forward: Forward, image: bytes, deadline_s: float) -> None:
        self._forward = forward
        self._breaker = forward.breaker
        self._image = image
        self._deadline_s = deadline_s
        self._patience_s = min(forward.patience_s, _PATIENCE_SHARE * (deadline_s - _now_s()))
        closed = self._breaker.state == "closed"
        self._left: list[Step] = ["primary", "retry", "fallback"] if closed else ["primary", "fallback", "primary"]
        self._running: dict[asyncio.Task[Answer | AskError], _Attempt] = {}
        self._next_s = 0.0
        self._retry_after_s = 0.0
        self._attempts = 0
        self._parts_ms: dict[str, float] = {}
        self._reason = "breaker_open"

    async def run(self) -> Outcome:
        try:
            while self._goes_on():
                done, _ = await asyncio.wait(
                    self._running, timeout=self._next_s - _now_s(), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    attempt = self._running.pop(task)
                    answer = self._ended(attempt, task.result())
                    if answer is not None:
                        return self._outcome(answer.probability, attempt.asks, answer.model_version)
        finally:
            for task, attempt in self._running.items():
                task.cancel()
                self._clock(attempt)
                if attempt.asks == "primary" and not attempt.failed:
                    self._breaker.spared()
        return self._outcome(NO_ANSWER, "", "")

    def _goes_on(self) -> bool:
        """Whether there is somebody to wait for; asks the next one where it is time to."""
        now_s = _now_s()
        if self._running and now_s < self._next_s:
            return True
        for attempt in self._running.values():
            self._fail(attempt, AskError(f"no answer for {now_s - attempt.begun_s:.1f} s", reason="late"))
        if now_s >= self._deadline_s:
            self._reason = "late"
            return False
        step = self._next_step()
        self._next_s = self._deadline_s
        if step is not None:
            delay_s = self._retry_after_s if step == "retry" else 0.0
            task = asyncio.get_running_loop().create_task(self._ask(step, delay_s))
            self._running[task] = _Attempt(step, now_s)
            self._attempts += 1
            self._next_s = min(now_s + delay_s + self._patience_s, self._deadline_s)
        return bool(self._running)

    def _next_step(self) -> Step | None:
        while self._left:
            step = self._left.pop(0)
            match step:
                case "primary":
                    possible = self._breaker.admits(urgent=not self._left)
                case "retry":
                    possible = self._breaker.state == "closed"
                case "fallback":
                    possible = self._forward.fallback is not None
            if possible:
                return step
        return None

    async def _ask(self, step: Step, delay_s: float) -> Answer | AskError:
        predictor = self._forward.fallback if step == "fallback" else self._forward.primary
        assert predictor is not None
        await asyncio.sleep(delay_s)
        try:
            return await predictor.ask(self._image, fresh=step == "retry")
        except AskError as err:
            return err
        except Exception as err:
            logger.exception("unforeseen error while a predictor was asked")
            return AskError(f"{type(err).__name__} while it was asked", reason="error")

    def _ended(self, attempt: _Attempt, result: Answer | AskError) -> Answer | None:
        """The answer if it is one; what follows from it if not."""
        self._clock(attempt)
        if isinstance(result, Answer):
            self._forward.observe(attempt.step, "ok")
            if attempt.asks == "primary":
                self._breaker.succeeded()
            return result
        self._fail(attempt, result)
        if attempt.asks == "primary":
            if result.reason == "refused":
                self._left = [step for step in self._left if step != "retry"]
            elif result.reason == "busy":
                self._left.sort(key=lambda step: step == "retry")
                self._retry_after_s = min(result.retry_after_s, self._patience_s)
        return None

    def _fail(self, attempt: _Attempt, error: AskError) -> None:
        if attempt.failed:  # it was late, and now has failed as well
            return
        attempt.failed = True
        self._reason = error.reason
        self._forward.observe(attempt.step, error.reason)
        fields = {"asked": attempt.step, "reason": error.reason, "message": error.message}
        event(logger, "predictor_failed", level=logging.WARNING, **fields)
        if attempt.asks == "primary":
            (self._breaker.failed if error.blames_predictor else self._breaker.spared)()

    def _clock(self, attempt: _Attempt) -> None:
        self._parts_ms[attempt.step] = (_now_s() - attempt.begun_s) * 1e3

    def _outcome(self, prediction: float, answered_by: AnsweredBy, model_version: str) -> Outcome:
        return Outcome(
            prediction=prediction,
            answered_by=answered_by,
            reason="" if answered_by else self._reason,
            parts_ms=self._parts_ms,
            model_version=model_version,
            attempts=self._attempts,
        )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
