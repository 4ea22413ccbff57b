"""Small real pictures, each unlike the others."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from streetvision.data.build import SourcePicture


def _scene(seed: int, *, width: int = 96, height: int = 72) -> NDArray[np.uint8]:
    """uint8[H,W,3] of smooth colour patches."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def _encoded(seed: int, format: str = "JPEG", *, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_scene(seed)).convert(mode).save(buffer, format=format, **options)
    return buffer.getvalue()


@dataclass
class ListSource:
    """A source over pictures in memory."""

    pictures: list[SourcePicture] = field(default_factory=list)
    name: str = "list"

    def fingerprint(self) -> str:
        return str(len(self.pictures))

    def __iter__(self) -> Iterator[SourcePicture]:
        return iter(self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)


def _list_source(count: int = 24) -> ListSource:
    """`count` pictures of each class, each its own group."""
    return ListSource(
        [
            SourcePicture(
                data=_encoded(seed), label=seed % 2, group=f"scene-{seed}", generator="camera", origin=f"{seed}.jpg"
            )
            for seed in range(2 * count)
        ]
    )


@pytest.fixture(scope="session")
def scene() -> Callable[..., NDArray[np.uint8]]:
    return _scene


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    return _encoded


@pytest.fixture(scope="session")
def list_source() -> Callable[..., ListSource]:
    return _list_source


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten photos of each class."""
    root = tmp_path / "photos"
    for seed in range(20):
        file = root / ("roadwork" if seed % 2 else "none") / f"{seed}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_encoded(seed))
    return root
