"""A small manifest of drawn pictures, and the challenge set frozen from it."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streetvision.challenge_set import ChallengeSet, freeze
from streetvision.data.manifest import Manifest, Picture, image_path, write

SOURCES = ("real", "real", "t2i", "i2i")


def _picture(seed: int, *, label: int, source: str, split: str) -> tuple[Picture, bytes]:
    """Smooth patches, darker without roadwork; a JPEG where the source is real, else a PNG."""
    low, high = (130, 250) if label else (0, 120)
    small = np.random.default_rng(seed).integers(low, high, (6, 8, 3), dtype=np.uint8)
    buffer, encoding = io.BytesIO(), "JPEG" if source == "real" else "PNG"
    Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(buffer, format=encoding)
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    picture = Picture(
        sha256=sha256,
        path=image_path(sha256, encoding),
        label=label,
        source=source,
        generator="test",
        group=f"scene-{seed // 2}",
        split=split,
        format=encoding,
        description="Roadwork" if label else "",
        prompt="",
        seed=seed,
        phash="0" * 16,
    )
    return picture, buffer.getvalue()


def _drawn_manifest(
    root: Path,
    *,
    count: int = 32,
    sources: Sequence[str] = SOURCES,
    split: Callable[[int], str] = lambda seed: "challenge",
) -> Manifest:
    with write(root) as writer:
        drawn = [
            _picture(seed, label=seed % 2, source=sources[seed // 2 % len(sources)], split=split(seed))
            for seed in range(count)
        ]
        for picture, data in drawn:
            writer.store(data, encoding=picture.format)
        writer.finish(picture for picture, _ in drawn)
    return Manifest.read(root)


@pytest.fixture(scope="session")
def drawn_manifest() -> Callable[..., Manifest]:
    """Writes a manifest of `count` pictures, from `sources` in turn, each in `split` of its number, to a folder."""
    return _drawn_manifest


@pytest.fixture(scope="session")
def challenge_manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """32 pictures, half of them with roadwork, half of them real, in 16 groups of the split `challenge`."""
    return _drawn_manifest(tmp_path_factory.mktemp("manifest") / "data")


@pytest.fixture(scope="session")
def challenge_set(challenge_manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> ChallengeSet:
    """160 challenges drawn from `challenge_manifest`; not to be altered."""
    return freeze(challenge_manifest, tmp_path_factory.mktemp("frozen") / "set", count=160, seed=7)
