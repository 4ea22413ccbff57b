"""What is answered: challenges on the public port; health, readiness and metrics on the operator's."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST

from serving.logs import event
from serving.miner.body import picture
from serving.miner.http_server import Reply, Request
from serving.miner.metrics import Metrics
from serving.miner.verification import Claim, Verifier
from streetvision.errors import WireError
from streetvision.subnet import btauth
from streetvision.subnet.protocol import NO_ANSWER, ROUTES, reply_body, reply_headers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One challenge that will be answered or deliberately not.

    Attributes:
        request_id: unique, and the same as in its `Finished`.
        time_ns: Unix time at which it was complete.
        validator: hotkey of the caller.
        uid: its place on the subnet.
        route: one of `protocol.ROUTES`.
        wire: format of the signature, `legacy` or `btauth/1`.
        unauthenticated_body: whether the picture may have been swapped on its way; never train on it unreviewed.
        image: the encoded picture, untouched.
    """

    request_id: str
    time_ns: int
    validator: str
    uid: int
    route: str
    wire: str
    unauthenticated_body: bool
    image: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What became of it.

    Attributes:
        request_id: as in its `Accepted`.
        prediction: what was sent, -1 for no answer.
        answered_by: `primary` or `fallback`, empty where there is no answer.
        reason: why there is none, empty where there is one.
        model_version: of the predictor that answered.
        latency_ms: from the first byte of the challenge to the answer.
        parts_ms: what it went to.
    """

    request_id: str
    prediction: float
    answered_by: str
    reason: str
    model_version: str
    latency_ms: float
    parts_ms: Mapping[str, float]


class Outcome(Protocol):
    """What came of asking the predictors."""

    @property
    def prediction(self) -> float:
        """P(roadwork), or -1 for no answer."""
        ...

    @property
    def answered_by(self) -> str:
        """`primary`, `fallback` or nothing."""
        ...

    @property
    def reason(self) -> str:
        """Why there is no answer: one of few words, empty where there is one."""
        ...

    @property
    def parts_ms(self) -> Mapping[str, float]:
        """What the time went to."""
        ...

    @property
    def model_version(self) -> str:
        """Of the predictor that answered."""
        ...


class Forward(Protocol):
    """What the edge needs of the predictors."""

    async def predict(self, image: bytes, *, deadline_s: float) -> Outcome:
        """The outcome for an encoded picture before `deadline_s` on the event loop's clock; never raises."""
        ...

    async def ready(self) -> bool:
        """Whether one of them would answer now."""
        ...

    def after(self, request_id: str, image: bytes) -> None:
        """Takes a picture that was answered, for whatever else is to be learnt from it; never waits."""
        ...


class Journal(Protocol):
    """Where every accepted challenge is written down, exactly once."""

    async def accept(self, record: Accepted) -> None:
        """Notes a challenge; waits a moment at most, and never raises."""
        ...

    def finish(self, record: Finished) -> None:
        """Notes what became of it; never waits and never raises."""
        ...


class Edge:
    """Answers challenges: refuses what is not one, and abstains where the predictors have no answer.

    Args:
        verifier: decides who is answered.
        forward: gives the probability.
        metrics: counts what happens.
        journal: writes down what was accepted; None for nowhere.
        body_limit_bytes: longer bodies are refused, without being read where their length is declared.
        answer_deadline_s: from the first byte of a challenge to its answer.
    """

    def __init__(
        self,
        verifier: Verifier,
        forward: Forward,
        metrics: Metrics,
        *,
        journal: Journal | None = None,
        body_limit_bytes: int,
        answer_deadline_s: float,
    ) -> None:
        self.body_limit_bytes = body_limit_bytes
        self.answer_deadline_s = answer_deadline_s
        self._verifier = verifier
        self._forward = forward
        self._metrics = metrics
        self._journal = journal

    async def answer(self, request: Request) -> Reply:
        """The answer to one request on the public port.

        Raises:
            WireError: it is no challenge that this miner answers.
        """
        if request.method != "POST" or request.target not in ROUTES:
            raise WireError(
                f"nothing is served at {request.method} `{request.target[:64]}`", status=404, reason="not_found"
            )
        now_s = asyncio.get_running_loop().time
        claim, body, verified_s = await self._read(request)
        image = picture(body)
        received_s = now_s()
        challenge = self._accept(claim, request, image)
        outcome = await self._predict(challenge, deadline_s=request.arrival_s + self.answer_deadline_s)
        prediction, reason = _served(outcome)
        replied_s = now_s()
        parts_s = {"verify": verified_s - request.arrival_s, "receive": received_s - verified_s}
        parts_s |= {part: taken_ms / 1e3 for part, taken_ms in outcome.parts_ms.items()}
        try:
            self._finish(challenge, outcome, prediction, reason, seconds=replied_s - request.arrival_s, parts_s=parts_s)
        except Exception:  # nothing that is only noted may cost the answer
            logger.exception("unforeseen error while an answer was written down")
        name = request.target.removeprefix("/")
        return Reply(
            status=200,
            body=reply_body(name, prediction),
            headers=reply_headers(name, process_time_s=replied_s - request.arrival_s),
        )

    def refuse(self, err: WireError) -> Reply:
        """Counts a refusal, and gives the answer that says so; its caller is hung up on."""
        self._metrics.refused(err.reason)
        event(logger, "refused", level=logging.DEBUG, status=err.status, reason=err.reason, message=err.message)
        return Reply(status=err.status, body=json.dumps({"message": err.message}).encode(), keep_alive=False)

    async def _read(self, request: Request) -> tuple[Claim, bytes, float]:
        """The proven claim, the whole body, and when the claim was proven."""
        now_s = asyncio.get_running_loop().time
        request.limit_body(self.body_limit_bytes)
        claim = self._verifier.claim(request)
        if claim.covers_body:
            body = await request.body()
            await self._verifier.prove(claim, request, body)
            request.trust()
            return claim, body, now_s()
        await self._verifier.prove(claim, request)
        request.trust()
        verified_s = now_s()
        return claim, await request.body(), verified_s

    def _accept(self, claim: Claim, request: Request, image: bytes) -> Accepted:
        self._metrics.accepted(unauthenticated_body=not claim.covers_body)
        return Accepted(
            request_id=uuid.uuid4().hex,
            time_ns=time.time_ns(),
            validator=claim.caller.hotkey,
            uid=claim.caller.uid,
            route=request.target,
            wire=btauth.PROTOCOL if claim.covers_body else "legacy",
            unauthenticated_body=not claim.covers_body,
            image=image,
        )

    async def _predict(self, challenge: Accepted, *, deadline_s: float) -> Outcome:
        """The outcome, while the challenge is being written down."""
        noting = asyncio.create_task(self._note(challenge))
        try:
            outcome = await self._forward.predict(challenge.image, deadline_s=deadline_s)
        except Exception:
            logger.exception("unforeseen error while predicting")
            outcome = _Failed()
        await noting
        return outcome

    async def _note(self, challenge: Accepted) -> None:
        try:
            if self._journal is not None:
                await self._journal.accept(challenge)
        except Exception:
            logger.exception("unforeseen error while a challenge was written down")

    def _finish(
        self,
        challenge: Accepted,
        outcome: Outcome,
        prediction: float,
        reason: str,
        *,
        seconds: float,
        parts_s: Mapping[str, float],
    ) -> None:
        self._metrics.answered(challenge.validator, reason=reason, seconds=seconds, parts_s=parts_s)
        if self._journal is not None:
            record = Finished(
                request_id=challenge.request_id,
                prediction=prediction,
                answered_by="" if reason else outcome.answered_by,
                reason=reason,
                model_version=outcome.model_version,
                latency_ms=seconds * 1e3,
                parts_ms={part: taken_s * 1e3 for part, taken_s in parts_s.items()},
            )
            self._journal.finish(record)
        if not reason:  # what no predictor could answer may be what brings predictors down
            self._forward.after(challenge.request_id, challenge.image)
        level = logging.WARNING if reason else logging.DEBUG
        fields = {"validator": challenge.validator, "reason": reason} if reason else {"validator": challenge.validator}
        event(logger, "abstain" if reason else "answered", level=level, **fields, latency_ms=round(seconds * 1e3, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """The outcome where something failed that never should."""

    prediction: float = NO_ANSWER
    answered_by: str = ""
    reason: str = "error"
    parts_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    model_version: str = ""


def _served(outcome: Outcome) -> tuple[float, str]:
    """What is sent, and why it is no answer: the last look at what leaves the miner.

    One half counts as "no roadwork" without having said so, and anything outside [0, 1] spoils 100 rewards.
    """
    if outcome.reason or outcome.prediction == NO_ANSWER:
        return NO_ANSWER, outcome.reason or "no_answer"
    if not 0.0 <= outcome.prediction <= 1.0 or outcome.prediction == 0.5:
        return NO_ANSWER, "unusable_probability"
    return outcome.prediction, ""


class Operator:
    """Answers on the operator's port: `/metrics`, `/health/live` and `/health/ready`.

    Args:
        metrics: what is shown.
        checks: what must hold for the miner to be ready, by name.
        hotkeys: the addresses that it answers for now, the newest first.
    """

    def __init__(
        self,
        metrics: Metrics,
        checks: Mapping[str, Callable[[], Awaitable[bool]]],
        hotkeys: Callable[[], Sequence[str]],
    ) -> None:
        self._metrics = metrics
        self._checks = checks
        self._hotkeys = hotkeys

    async def answer(self, request: Request) -> Reply:
        """The answer to one request."""
        match request.method, request.target.partition("?")[0]:
            case "GET", "/metrics":
                return Reply(status=200, body=self._metrics.render(), content_type=CONTENT_TYPE_LATEST)
            case "GET", "/health/live":
                return _json(200, {"live": True})
            case "GET", "/health/ready":
                checks = {name: await check() for name, check in self._checks.items()}
                ready = all(checks.values())
                return _json(200 if ready else 503, {"ready": ready, "hotkeys": list(self._hotkeys())} | checks)
            case _:
                return _json(404, {"message": "here are `/metrics`, `/health/live` and `/health/ready`"})

    def refuse(self, err: WireError) -> Reply:
        """The answer to what is no usable request."""
        return Reply(status=err.status, body=json.dumps({"message": err.message}).encode(), keep_alive=False)


def _json(status: int, value: Mapping[str, object]) -> Reply:
    return Reply(status=status, body=json.dumps(value).encode())
