import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

DATA = Path(__file__).parents[2] / "data" / "subnet"


@pytest.fixture(scope="session")
def golden_rewards() -> dict[str, Any]:
    return json.loads((DATA / "reward_vectors.json").read_text())


@pytest.fixture(scope="session")
def golden_pictures() -> dict[str, Any]:
    return json.loads((DATA / "augmentation_facts.json").read_text())


@pytest.fixture(scope="session")
def computed_picture() -> Callable[[int, int], NDArray[np.uint8]]:
    """The test picture of the recorded facts, by height and width."""

    def draw(height: int, width: int) -> NDArray[np.uint8]:
        y, x = np.mgrid[:height, :width]
        return np.stack([(3 * x + y) % 256, (x + 5 * y) % 256, (x * y // 7) % 256], axis=-1).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def street() -> NDArray[np.uint8]:
    """uint8[360,640,3] with the smooth shading, edges and grain of a photo."""
    rng = np.random.default_rng(4)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    picture = np.array(coarse.resize((640, 360), Image.Resampling.BICUBIC), dtype=np.int16)
    picture[200:, 250:300] = (240, 120, 20)
    return np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)
