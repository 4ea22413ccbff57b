"""Pictures to measure with: as large when encoded as challenges are."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def street(size_px: int, *, noise: int = 6) -> NDArray[np.uint8]:
    """uint8[S,S,3]: smooth patches under noise; at 224 px a JPEG of about 10 kB, with noise 60 of 25 kB."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (size_px // 8 + 1, size_px // 8 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((size_px, size_px), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-noise, noise + 1, smooth.shape), 0, 255).astype(np.uint8)
