"""From encoded picture to model input, beside decoding alone and beside the reference."""

import io
import statistics
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from streetvision.imaging import encode_jpeg, model_input
from tests.bench.measure import Figure, seconds
from tests.bench.pictures import street

_SIZE_PX, _TIMES = 224, 200


def decode(repeat: int) -> Iterator[Figure]:
    """A typical challenge and the noisiest; pixels that differ from Pillow's are an error, not a figure."""
    for name, noise in (("typical", 6), ("noisy", 60)):
        data = encode_jpeg(street(_SIZE_PX, noise=noise))
        assert np.array_equal(model_input(data, _SIZE_PX), _by_pillow(data))
        alone_s, ours_s, pillow_s = [], [], []
        for _ in range(repeat * _TIMES):
            alone_s.append(seconds(lambda: simplejpeg.decode_jpeg(data, "RGB")))  # noqa: B023
            ours_s.append(seconds(lambda: model_input(data, _SIZE_PX)))  # noqa: B023
            pillow_s.append(seconds(lambda: _by_pillow(data)))  # noqa: B023
        alone, ours, pillow = (statistics.median(taken) for taken in (alone_s, ours_s, pillow_s))
        count = repeat * _TIMES
        yield Figure(f"{name} JPEG of {len(data) / 1000:.0f} kB to model input", "us", 1e6 * ours, None, count)
        yield Figure("  as a multiple of decoding alone", "", ours / alone, 1.2, count)
        yield Figure("  as a multiple of Pillow", "", ours / pillow, 1.0, count)


def _by_pillow(data: bytes) -> object:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
