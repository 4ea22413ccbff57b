"""A small real manifest."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from streetvision.data.build import SourcePicture, build
from streetvision.data.manifest import Manifest


class _Source:
    name = "test"

    def fingerprint(self) -> str:
        return "0"

    def __len__(self) -> int:
        return 60

    def __iter__(self) -> Iterator[SourcePicture]:
        for number in range(60):
            small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC).save(buffer, "JPEG")
            yield SourcePicture(
                data=buffer.getvalue(),
                label=number % 3 == 0,
                group=f"scene {number // 2}",
                generator="camera",
                origin=str(number),
            )


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """40 pictures without and 20 with roadwork, in 30 groups of two."""
    root = tmp_path_factory.mktemp("real") / "manifest"
    build(_Source(), root, seed=0)
    return Manifest.read(root)
