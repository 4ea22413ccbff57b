import asyncio
import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from streetvision.errors import EngineError, ImageError
from streetvision.inference.batching import Batch, Batcher

LARGEST = 8


class Engine:
    """Answers each picture with its first byte / 255; holds the batches back while told so."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.error: Exception | None = None

    def predict(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(batch[:, 0, 0, 0].tolist())
        self.entered.release()
        assert self.free.wait(10)
        if self.error is not None:
            raise self.error
        return (batch[:, 0, 0, 0] / np.float32(255)).astype(np.float32)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


class Decoder:
    """A picture of one byte becomes 4 x 4 pixels of its value."""

    def __init__(self) -> None:
        self.decoded: list[bytes] = []
        self.before: Callable[[bytes], object] = lambda image: None

    def decode(self, index: int, image: bytes) -> NDArray[np.uint8]:
        self.before(image)
        if image == b"":
            raise ImageError(f"image {index}: nothing")
        self.decoded.append(image)
        return np.full((4, 4, 3), image[0], dtype=np.uint8)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
def seen() -> list[Batch]:
    return []


@pytest.fixture
def batcher(engine: Engine, decoder: Decoder, seen: list[Batch]) -> Iterator[Batcher]:
    batcher = Batcher(decoder.decode, engine.predict, decoders=2, largest=LARGEST, observe=seen.append)
    yield batcher
    engine.free.set()
    batcher.close()


def images(*values: int) -> list[bytes]:
    return [bytes([value]) for value in values]


async def submitted(batcher: Batcher, *requests: list[bytes]) -> list[asyncio.Task[NDArray[np.float32]]]:
    """The requests, begun one after the other."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher.submit(request)))
        await asyncio.sleep(0.02)
    return tasks


def values(answer: NDArray[np.float32]) -> list[int]:
    return np.rint(answer * 255).astype(int).tolist()


async def test_a_lone_request_is_run_at_once(batcher: Batcher, engine: Engine) -> None:
    assert values(await batcher.submit(images(7))) == [7]
    assert engine.batches == [[7]]


async def test_what_comes_while_the_engine_works_is_run_together(batcher: Batcher, engine: Engine) -> None:
    engine.free.clear()
    first = asyncio.create_task(batcher.submit(images(1)))
    await engine.begun()
    rest = await submitted(batcher, images(2), images(3, 4), images(5))
    engine.free.set()
    assert [values(answer) for answer in await asyncio.gather(first, *rest)] == [[1], [2], [3, 4], [5]]
    assert engine.batches == [[1], [2, 3, 4, 5]]


async def test_a_batch_is_never_larger_than_the_largest(batcher: Batcher, engine: Engine) -> None:
    engine.free.clear()
    first = asyncio.create_task(batcher.submit(images(0)))
    await engine.begun()
    rest = await submitted(batcher, images(*range(1, 7)), images(*range(7, 32)), images(40))
    engine.free.set()
    assert [values(answer) for answer in await asyncio.gather(first, *rest)] == [
        [0],
        [*range(1, 7)],
        [*range(7, 32)],
        [40],
    ]
    assert engine.batches[1:] == [[*range(1, 9)], [*range(9, 17)], [*range(17, 25)], [*range(25, 32), 40]]


async def test_who_left_before_his_turn_costs_nothing(batcher: Batcher, engine: Engine, decoder: Decoder) -> None:
    engine.free.clear()
    first = asyncio.create_task(batcher.submit(images(1)))
    await engine.begun()
    decoded, other = await submitted(batcher, images(2), images(3))
    hold = threading.Event()
    decoder.before = lambda image: hold.wait(10)
    blocked = await submitted(batcher, images(4), images(5))
    (undecoded,) = await submitted(batcher, images(6))
    for task in (decoded, undecoded):
        task.cancel()
    await asyncio.gather(decoded, undecoded, return_exceptions=True)
    hold.set()
    engine.free.set()
    assert [values(answer) for answer in await asyncio.gather(first, other, *blocked)] == [[1], [3], [4], [5]]
    assert [2] not in engine.batches
    assert {value for batch in engine.batches for value in batch} == {1, 3, 4, 5}
    assert b"\x06" not in decoder.decoded


async def test_who_leaves_halfway_is_run_no_further(batcher: Batcher, engine: Engine) -> None:
    engine.free.clear()
    task = asyncio.create_task(batcher.submit(images(*range(20))))
    await engine.begun()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.free.set()
    assert values(await batcher.submit(images(99))) == [99]
    assert engine.batches == [[*range(8)], [99]]


async def test_a_failing_engine_fails_those_of_its_batch_alone(batcher: Batcher, engine: Engine) -> None:
    engine.free.clear()
    engine.error = EngineError("out of memory")
    first = asyncio.create_task(batcher.submit(images(1)))
    await engine.begun()
    rest = await submitted(batcher, images(*range(2, 12)), images(12))  # two batches
    engine.free.set()
    for task in (first, *rest):
        with pytest.raises(EngineError, match="out of memory"):
            await task
    assert batcher.failures >= 2
    engine.error = None
    assert values(await batcher.submit(images(3))) == [3]
    assert batcher.failures == 0


async def test_an_unusable_picture_refuses_its_request_alone(batcher: Batcher, engine: Engine) -> None:
    bad = asyncio.create_task(batcher.submit([b"\x01", b"", b"\x02"]))
    good = asyncio.create_task(batcher.submit(images(3)))
    with pytest.raises(ImageError, match="image 1: nothing"):
        await bad
    assert values(await good) == [3]
    assert engine.batches == [[3]]
    assert batcher.failures == 0


async def test_pictures_of_one_request_are_decoded_at_once(batcher: Batcher, decoder: Decoder) -> None:
    both = threading.Barrier(2)
    decoder.before = lambda image: both.wait(10)
    assert values(await batcher.submit(images(1, 2))) == [1, 2]


async def test_it_is_known_how_long_the_engine_is_at_it(batcher: Batcher, engine: Engine) -> None:
    assert batcher.busy_s == 0
    engine.free.clear()
    task = asyncio.create_task(batcher.submit(images(1)))
    await engine.begun()
    await asyncio.sleep(0.05)
    assert 0.04 < batcher.busy_s < 5
    engine.free.set()
    await task
    assert batcher.busy_s == 0


async def test_every_batch_is_told_with_its_times(batcher: Batcher, engine: Engine, seen: list[Batch]) -> None:
    engine.free.clear()
    tasks = [asyncio.create_task(batcher.submit(images(1)))]
    await engine.begun()
    tasks += await submitted(batcher, images(2), images(3, 4))
    engine.free.set()
    await asyncio.gather(*tasks)
    while len(seen) < 2:
        await asyncio.sleep(0.001)
    assert [(batch.size, len(batch.waited_s)) for batch in seen] == [(1, 1), (3, 2)]
    assert seen[0].engine_s > 0.03
    assert seen[1].waited_s[0] > seen[1].waited_s[1] > 0.01


async def test_under_load_everyone_who_stays_gets_his_own_answer(batcher: Batcher, engine: Engine) -> None:
    rng = random.Random(5)

    async def client(number: int) -> None:
        request = images(*(rng.randrange(256) for _ in range(rng.randint(1, 20))))
        task = asyncio.create_task(batcher.submit(request))
        await asyncio.sleep(rng.random() * 0.02)
        if number % 5 == 0:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            assert values(await task) == [image[0] for image in request]

    await asyncio.gather(*(client(number) for number in range(300)))
    assert max(map(len, engine.batches)) == LARGEST


async def test_its_threads_end_when_it_is_closed(engine: Engine, decoder: Decoder) -> None:
    before = set(threading.enumerate())
    batcher = Batcher(decoder.decode, engine.predict, decoders=3, largest=LARGEST)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 4
    await batcher.submit(images(1))
    batcher.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_died_is_noticed(engine: Engine, decoder: Decoder) -> None:
    def broken(batch: Batch) -> None:
        raise RuntimeError("no more metrics")

    batcher = Batcher(decoder.decode, engine.predict, decoders=1, largest=LARGEST, observe=broken)
    assert batcher.alive
    await batcher.submit(images(1))
    for _ in range(1000):
        if not batcher.alive:
            break
        await asyncio.sleep(0.001)
    assert not batcher.alive
    batcher.close()
