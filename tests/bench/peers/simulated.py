"""The same work for every server: decode one picture, then an engine that takes 3 ms and 0.5 ms a picture."""

import base64
import threading
import time

import simplejpeg

FIXED_S, PICTURE_S, LARGEST = 0.003, 0.0005, 64
CEILING_RPS = LARGEST / (FIXED_S + PICTURE_S * LARGEST)
FLOOR_MS = 1000 * (FIXED_S + PICTURE_S)
_one_engine = threading.Lock()


def decode(text: str | bytes) -> object:
    return simplejpeg.decode_jpeg(base64.b64decode(text), "RGB")


def engine(count: int) -> list[float]:
    with _one_engine:
        time.sleep(FIXED_S + PICTURE_S * count)
    return [0.4] * count
