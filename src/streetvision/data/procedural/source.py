"""Street scenes drawn on demand, as a source of labelled pictures."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from streetvision import imaging, parallel
from streetvision.data.build import SourcePicture
from streetvision.data.procedural import render
from streetvision.errors import SettingsError

RENDERER_VERSION = 1  # raised whenever the same scene would give other pictures
_CHUNK = 4  # scenes a process draws at a time


@dataclass(frozen=True, kw_only=True)
class _Order:
    """One scene to be drawn."""

    seed: int
    index: int
    frames: int

    @property
    def label(self) -> int:
        return self.index % 2

    @property
    def group(self) -> str:
        return f"procedural-{self.seed}-{self.index:06d}"


class ProceduralSource:
    """Half of its scenes hold roadwork, the other half what resembles it; the frames of a scene form a group.

    The same settings give the same bytes, however many processes draw.
    """

    name = "procedural"

    def __init__(self, scenes: int, seed: int, frames: tuple[int, int] = (1, 3), workers: int = 2) -> None:
        """Plans the scenes.

        Args:
            scenes: how many; every other one has label 1.
            seed: of everything.
            frames: the fewest and the most pictures of a scene.
            workers: processes that draw; 1 draws in this one.

        Raises:
            SettingsError: a number that makes no sense.
        """
        if scenes < 1 or seed < 0 or workers < 1 or not 1 <= frames[0] <= frames[1]:
            raise SettingsError(
                f"procedural source got scenes `{scenes}`, seed `{seed}`, frames `{frames}`, workers `{workers}`; "
                "expected at least 1 scene, seed 0, 1 frame and 1 worker, fewest frames first"
            )
        self._scenes, self._seed, self._frames, self._workers = scenes, seed, frames, workers
        # scenes 2i and 2i + 1 have as many frames as each other, so that the labels stay balanced
        counts = np.random.default_rng([seed, 0]).integers(frames[0], frames[1] + 1, (scenes + 1) // 2)
        self._orders = [_Order(seed=seed, index=i, frames=int(counts[i // 2])) for i in range(scenes)]

    def fingerprint(self) -> str:
        """Changes whenever the pictures would."""
        settings = [self.name, RENDERER_VERSION, self._scenes, self._seed, list(self._frames)]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(order.frames for order in self._orders)

    def __iter__(self) -> Iterator[SourcePicture]:
        """Yields the pictures scene by scene."""
        chunks = [self._orders[i : i + _CHUNK] for i in range(0, len(self._orders), _CHUNK)]
        if self._workers == 1 or len(chunks) < 4 * self._workers:  # a process takes longer to start than to draw these
            for chunk in chunks:
                yield from _draw(chunk)
            return
        with parallel.processes(self._workers) as pool:
            for pictures in pool.map(_draw_alone, chunks):
                yield from pictures


def _draw_alone(orders: Sequence[_Order]) -> list[SourcePicture]:
    cv2.setNumThreads(1)  # the processes share the machine already
    return _draw(orders)


def _draw(orders: Sequence[_Order]) -> list[SourcePicture]:
    pictures: list[SourcePicture] = []
    for order in orders:
        rng = np.random.default_rng([order.seed, 1, order.index])
        scene = render.compose(order.label, int(rng.integers(2**62)))
        for number, picture in enumerate(render.frames(scene, order.frames)):
            pictures.append(
                SourcePicture(
                    data=imaging.encode_jpeg(picture, quality=int(rng.integers(70, 96))),
                    label=order.label,
                    group=order.group,
                    generator="procedural",
                    origin=f"procedural scene {order.index}, frame {number}",
                    description=scene.description,
                    seed=order.seed,
                )
            )
    return pictures
