"""Requests joined into batches: whenever the engine is free, it takes what waits."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Answer = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """One run of the engine, for metrics.

    Attributes:
        size: pictures in it.
        engine_s: how long the engine took.
        waited_s: of each request that begins in it, how long it had been decoded and waiting for its turn.
    """

    size: int
    engine_s: float
    waited_s: tuple[float, ...]


@dataclass(eq=False, slots=True)
class _Request:
    images: Sequence[bytes]
    answer: asyncio.Future[Answer]
    decoded: dict[int, Pictures] = field(default_factory=dict[int, Pictures])
    decoded_s: float = 0.0  # when the last of them was
    taken: int = 0  # pictures that the engine has had
    parts: list[Answer] = field(default_factory=list[Answer])
    left: bool = False  # nobody waits for the answer any more


_Part = tuple[_Request, int, int]  # a request, and from where to where of its pictures


class Batcher:
    """Threads that decode, and one that runs the engine on what they have decoded; it never waits for more.

    A lone request is run at once. Requests that come while the engine works are run together when it is free. There is
    no timer: waiting for company only ever delays those who are there. The event loop is touched twice a request, when
    it comes and when it is answered.
    """

    def __init__(
        self,
        decode: Callable[[int, bytes], Pictures],
        predict: Callable[[Pictures], Answer],
        *,
        decoders: int,
        largest: int,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        """Starts the threads.

        Args:
            decode: uint8[S,S,3] of a picture and its index in its request; several are decoded at once.
            predict: the engine; takes uint8[N,S,S,3] with N at most `largest`, which is its own only for that call.
            decoders: threads that decode.
            largest: the most pictures of one batch; a request of more is run in several.
            observe: is told of every batch, in the engine's thread.
        """
        self._decode = decode
        self._predict = predict
        self._largest = largest
        self._observe = observe
        self._encoded: queue.SimpleQueue[tuple[_Request, int] | None] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._head: _Request | None = None  # no longer waiting, and not yet run to its end
        self._staging: Pictures | None = None  # where a batch is put together; made once, as fresh memory is slow
        self._lock = threading.Lock()
        self._failures = 0
        self._begun_s: float | None = None
        # A daemon that hangs delays no exit.
        self._engine = threading.Thread(target=self._run_all, name="engine", daemon=True)
        self._engine.start()
        for number in range(decoders):
            threading.Thread(target=self._decode_all, name=f"decoder-{number}", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread still runs."""
        return self._engine.is_alive()

    @property
    def failures(self) -> int:
        """Batches that failed since the last one that did not."""
        return self._failures

    @property
    def busy_s(self) -> float:
        """How long the engine has been working on its batch; 0 while it is free."""
        begun_s = self._begun_s
        return 0.0 if begun_s is None else time.monotonic() - begun_s

    async def submit(self, images: Sequence[bytes]) -> Answer:
        """The engine's answers, float32[N], to N encoded pictures, at least one.

        Cancelled before its turn, it costs neither decoding nor engine time.

        Raises:
            Exception: what `decode` raised on one of the pictures, or `predict` on a batch that held one of them.
        """
        request = _Request(images, asyncio.get_running_loop().create_future())
        for index in range(len(images)):
            self._encoded.put((request, index))
        try:
            return await request.answer
        finally:
            request.left = True

    def close(self) -> None:
        """Lets the threads end; what they have not begun is not answered."""
        self._encoded.put(None)
        self._waiting.put(None)

    def _decode_all(self) -> None:
        while (job := self._encoded.get()) is not None:
            request, index = job
            if request.left:
                continue
            try:
                picture = self._decode(index, request.images[index])
            except Exception as err:  # the one who sent it is told, and the thread goes on  # noqa: BLE001
                request.left = True
                _in_loop(request, _deliver, [(request, 0, 0)], err)
                continue
            with self._lock:
                request.decoded[index] = picture
                complete = len(request.decoded) == len(request.images)
            if complete:
                request.decoded_s = time.monotonic()
                self._waiting.put(request)
        self._encoded.put(None)  # for the next thread

    def _run_all(self) -> None:
        batch = self._next(wait=True)
        while batch is not None:
            parts, pictures = batch
            self._begun_s = begun_s = time.monotonic()
            outcome = self._outcome(pictures)
            engine_s = time.monotonic() - begun_s
            self._begun_s = None
            # The next is put together before the answers go out: the event loop, once woken, holds the interpreter.
            batch = self._next(wait=False)
            _in_loop(parts[0][0], _deliver, parts, outcome)
            waited_s = tuple(begun_s - request.decoded_s for request, start, _ in parts if start == 0)
            self._observe(Batch(len(pictures), engine_s, waited_s))
            batch = batch or self._next(wait=True)

    def _outcome(self, pictures: Pictures) -> Answer | Exception:
        try:
            answer = self._predict(pictures)
        except Exception as err:  # whoever asked is told, and the thread goes on  # noqa: BLE001
            self._failures += 1
            return err
        self._failures = 0
        return answer

    def _next(self, *, wait: bool) -> tuple[list[_Part], Pictures] | None:
        """What waits, as the next batch; nothing where nothing does and it is not to be waited for, or once closed."""
        parts: list[_Part] = []
        room = self._largest
        while room:
            if self._head is None:
                try:
                    self._head = self._waiting.get(block=wait and not parts)
                except queue.Empty:
                    break
                if self._head is None:
                    self._waiting.put(None)  # seen again once these are run
                    break
            request = self._head
            start, end = request.taken, min(request.taken + room, len(request.images))
            if not request.left:
                parts.append((request, start, end))
                request.taken = end
                room -= end - start
            if request.left or end == len(request.images):
                self._head = None
        pictures = [request.decoded.pop(index) for request, start, end in parts for index in range(start, end)]
        return (parts, self._joined(pictures)) if parts else None

    def _joined(self, pictures: list[Pictures]) -> Pictures:
        if len(pictures) == 1:
            return pictures[0][np.newaxis]
        if self._staging is None:
            self._staging = np.empty((self._largest, *pictures[0].shape), dtype=np.uint8)
        return np.stack(pictures, out=self._staging[: len(pictures)])


def _in_loop(request: _Request, act: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be answered
        request.answer.get_loop().call_soon_threadsafe(act, *arguments)


def _deliver(parts: list[_Part], outcome: Answer | Exception) -> None:
    """Hands each request its part of the outcome, in the event loop."""
    position = 0
    for request, start, end in parts:
        if request.answer.done():  # cancelled, or a former part of it failed
            pass
        elif isinstance(outcome, Exception):
            request.answer.set_exception(outcome)
        else:
            request.parts.append(outcome[position : position + end - start])
            if end == len(request.images):
                request.answer.set_result(np.concatenate(request.parts))
        position += end - start
