"""Bytes that people and strangers send become pictures, or one sentence."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streetvision import imaging
from streetvision.errors import ImageError


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
def test_every_mode_becomes_rgb(mode: str):
    format = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    image = Image.new("I;16", (40, 30), 30000) if mode == "I;16" else gradient(40, 30).convert(mode)
    pixels = imaging.decode(encoded(image, format))
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8


def test_sixteen_bit_grey_is_scaled_not_clipped():
    pixels = imaging.decode(encoded(Image.new("I;16", (40, 30), 32768), "PNG"))
    assert 126 <= pixels.mean() <= 129


def test_a_picture_stands_upright_by_its_exif_orientation():
    image = gradient(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    assert imaging.decode(encoded(image, exif=exif)).shape == (40, 20, 3)


@pytest.mark.parametrize("format", imaging.FORMATS)
def test_a_truncated_picture_is_one_sentence(format: str):
    data = encoded(gradient(200, 200), format)
    with pytest.raises(ImageError, match="damaged|are no JPEG"):
        imaging.decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a", b"<html>", encoded(gradient(9, 9), "BMP")])
def test_what_is_no_picture_is_one_sentence(data: bytes):
    with pytest.raises(ImageError) as caught:
        imaging.decode(data)
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None


def test_fifty_megapixels_are_refused_by_their_header_alone():
    row = zlib.compress(b"")  # no pixels behind the header: they must not be asked for
    header = (10_000).to_bytes(4) + (5_000).to_bytes(4) + b"\x08\x02\x00\x00\x00"
    png = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", row)):
        png += len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
    with pytest.raises(ImageError, match=r"10000 x 5000 = 50.0 megapixels, expected at most 4"):
        imaging.decode(png)


def test_the_limit_can_be_raised():
    data = encoded(Image.new("L", (2100, 2000)), "PNG")
    with pytest.raises(ImageError, match="expected at most 4"):
        imaging.decode(data)
    assert imaging.decode(data, limit_px=imaging.DECODE_LIMIT_MAX_PX).shape == (2000, 2100, 3)


def test_a_one_pixel_picture_is_a_picture():
    assert imaging.model_input(encoded(Image.new("RGB", (1, 1), "red"), "PNG"), 224).shape == (224, 224, 3)


def test_a_wire_size_picture_reaches_the_model_untouched():
    pixels = np.asarray(gradient(224, 224))
    assert imaging.resize(pixels, 224) is pixels


def test_another_size_gives_the_central_square():
    pixels = np.zeros((100, 300, 3), dtype=np.uint8)
    pixels[:, 100:200] = 255
    assert imaging.resize(pixels, 50).min() == 255


def test_wire_jpegs_have_quality_75_and_halved_chroma():
    with Image.open(io.BytesIO(imaging.encode_jpeg(np.asarray(gradient(224, 224))))) as image:
        assert image.size == (224, 224)
        assert image.layer[0][1:3] == (2, 2)  # luma sampled twice as often as chroma, both ways
        assert image.quantization[0][0] == 8  # Pillow's table at quality 75


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3))
def test_hostile_bytes_never_escape_as_anything_else(noise: bytes, where: int):
    data = bytearray(encoded(gradient(16, 16), imaging.FORMATS[where % 3]))
    start = min(len(data), 12 + 7 * where)
    data[start : start + len(noise)] = noise
    try:
        imaging.decode(bytes(data))
    except ImageError as err:
        assert "\n" not in err.message
