"""Augmented views of pictures, as a validator would send them, and the processes that draw them.

This module stays free of torch: worker processes import it and little else.
"""

import contextlib
import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray

from streetvision import imaging, parallel
from streetvision.errors import DataError, ImageError
from streetvision.subnet import challenges, distortions, geometry, regimes

_SOURCES = (challenges, distortions, geometry, regimes, imaging)
_LIBRARIES = (cv2, np, PIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One augmented view: everything that decides its pixels, but the picture itself.

    Attributes:
        sha256: of the encoded picture.
        seed: of the transform.
        level: of the augmentation, 0 to 3.
    """

    sha256: str
    seed: int
    level: int


Render = Callable[[bytes, str, Sequence[View], str, int], NDArray[np.uint8]]


def views_of(sha256: str, *, count: int, regime: str) -> list[View]:
    """The views of one picture: the same ones in every run, whatever else is trained on.

    Where `count` is a multiple of four every level gets as many; else levels are drawn. A regime without augmentation
    has one view.
    """
    augmented = regimes.active(regime).augmented
    count = count if augmented else 1
    digests = [hashlib.sha256(f"{sha256}/{k}/{regime}".encode()).digest() for k in range(count)]
    levels = regimes.LEVELS if augmented else regimes.LEVELS[:1]
    return [
        View(
            sha256=sha256,
            seed=int.from_bytes(digest[:8], "big") >> 1,  # fits an int64
            level=levels[(k if count % len(levels) == 0 else digest[8]) % len(levels)],
        )
        for k, digest in enumerate(digests)
    ]


def version_of_views() -> str:
    """Digest that changes whenever a view's pixels might: of the code that draws it and its libraries' versions."""
    digest = hashlib.sha256()
    for module in _SOURCES:
        digest.update(Path(str(module.__file__)).read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library.__name__} {library.__version__}\n".encode())
    return digest.hexdigest()


def render(data: bytes, encoding: str, views: Sequence[View], regime: str, size_px: int) -> NDArray[np.uint8]:
    """uint8[N,S,S,3]: the views of one encoded picture as the model sees them.

    Each equals `challenges.view` of its seed and level; the picture is decoded once for all of them.

    Raises:
        DataError: the picture cannot be decoded; its sha256 is named.
    """
    try:
        image = challenges.cached_picture(data, encoding)
        return np.stack([_render_one(image, view, regime, size_px) for view in views])
    except ImageError as err:
        raise DataError(
            f"picture `{views[0].sha256}` cannot be trained on: {err.message}",
            hint="build the manifest again, which leaves such pictures out",
        ) from err


def _render_one(image: NDArray[np.uint8], view: View, regime: str, size_px: int) -> NDArray[np.uint8]:
    rng = np.random.Generator(np.random.PCG64(view.seed))
    _, wire = challenges.draw_challenge(rng, image, regime=regime, level=view.level)
    return imaging.model_input(wire, size_px, limit_px=imaging.DECODE_LIMIT_MAX_PX)


@contextlib.contextmanager
def renderer(workers: int) -> Generator[Render]:
    """Yields `render` as it runs in that many processes, or in this one for `workers` of 0."""
    if workers == 0:
        yield render
        return
    with parallel.processes(workers) as pool:

        def submit(data: bytes, encoding: str, views: Sequence[View], regime: str, size_px: int) -> NDArray[np.uint8]:
            return pool.submit(render, data, encoding, views, regime, size_px).result()

        yield submit
