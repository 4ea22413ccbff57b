"""Bytes that people and strangers send become pictures, or one sentence."""

import hashlib
import io
import json
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from streetvision import imaging
from streetvision.errors import ImageError

GOLDEN = Path(__file__).parents[1] / "data" / "imaging"
PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth patches and noise, so that every coefficient of a JPEG is used."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(large + rng.integers(-8, 9, large.shape), 0, 255).astype(np.uint8))


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def png_header(width: int, height: int, *, depth_and_type: bytes = b"\x08\x02") -> bytes:
    return PNG + chunk(b"IHDR", width.to_bytes(4) + height.to_bytes(4) + depth_and_type + b"\0\0\0")


def sha256(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("name", sorted(json.loads((GOLDEN / "golden.json").read_text())))
def test_model_input_is_the_golden_one_to_the_bit(name: str):
    expected = json.loads((GOLDEN / "golden.json").read_text())[name]
    data = (GOLDEN / name).read_bytes()
    pixels = imaging.decode(data)
    assert (list(pixels.shape), sha256(pixels)) == (expected["shape"], expected["pixels"])
    assert sha256(imaging.model_input(data, 224)) == expected["model_input"]


PLAIN = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "optimised tables": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 3},
    "quality 1": {"quality": 1},
    "quality 100": {"quality": 100},
}


@pytest.mark.parametrize("size", [(224, 224), (1, 1), (7, 9), (33, 250), (225, 223)], ids=str)
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN.keys())
def test_the_fast_decoder_gives_the_pixels_of_pillow(
    options: dict[str, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    for image in (photo(*size), photo(*size).convert("L")):
        data = encoded(image, **options)
        with monkeypatch.context() as patched:
            patched.setattr(imaging, "_decode_with_pillow", pytest.fail)
            fast = imaging.decode(data)
        assert np.array_equal(fast, by_pillow(data))


PECULIAR = {
    "progressive": encoded(photo(65, 43), progressive=True),
    "four colours": encoded(photo(65, 43).convert("CMYK")),
    "EXIF": encoded(photo(65, 43), exif=Image.Exif().tobytes()),
    "comment": encoded(photo(65, 43), comment=b"by hand"),
    "colour profile": encoded(photo(65, 43), icc_profile=bytes(300)),
    "not JFIF": encoded(photo(65, 43)).replace(b"JFIF", b"AVI1"),
    "several scans": encoded(photo(65, 43)) + encoded(photo(9, 9)),
}


@pytest.mark.parametrize("data", PECULIAR.values(), ids=PECULIAR.keys())
def test_any_other_jpeg_is_left_to_pillow(data: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imaging.simplejpeg, "decode_jpeg", pytest.fail)
    assert np.array_equal(imaging.decode(data), by_pillow(data))


def test_without_the_fast_decoder_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch):
    data = encoded(photo(224, 224))
    fast = imaging.decode(data)
    monkeypatch.setattr(imaging, "simplejpeg", None)
    assert np.array_equal(imaging.decode(data), fast)


def outcome(data: bytes) -> str:
    try:
        return sha256(imaging.decode(data))
    except ImageError as err:
        assert "\n" not in err.message
        return "refused"


WIRE = encoded(photo(64, 48))


@pytest.mark.fuzz
@given(st.lists(st.tuples(st.integers(0, len(WIRE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_of_a_damaged_jpeg_pillow_decides(damage: list[tuple[int, int]]):
    data = bytearray(WIRE)
    for position, value in damage:
        data[position] = value
    fast = outcome(bytes(data))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(imaging, "simplejpeg", None)
        assert outcome(bytes(data)) == fast


@pytest.mark.parametrize("data", [WIRE, PECULIAR["progressive"]], ids=["baseline", "progressive"])
def test_a_jpeg_cut_short_anywhere_is_one_sentence(data: bytes, monkeypatch: pytest.MonkeyPatch):
    for end in range(0, len(data) - 2, 64):
        with pytest.raises(ImageError) as caught:
            imaging.decode(data[:end])
        assert "\n" not in caught.value.message


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


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("format", imaging.FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright_by_its_exif_orientation(orientation: int, format: str, order: str):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(photo(40, 20), format, exif=exif, **options)
    assert np.array_equal(imaging.decode(data), by_pillow(data))
    assert imaging.decode(data).shape == ((40, 20, 3) if orientation > 4 else (20, 40, 3))


ENTRY = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
BAD_EXIF = {
    "nothing": b"",
    "no byte order": b"XX*\0\x08\0\0\0",
    "directory beyond the end": b"II*\0\xff\xff\xff\xff",
    "entries beyond the end": b"II*\0\x08\0\0\0\xff\xff",
    "orientation 0": b"II*\0\x08\0\0\0\x01\0" + ENTRY.replace(b"\x06\0", b"\0\0"),
    "orientation 9": b"II*\0\x08\0\0\0\x01\0" + ENTRY.replace(b"\x06\0", b"\x09\0"),
    "orientation as text": b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, 2, 4, b"six"),
}


@pytest.mark.parametrize("exif", BAD_EXIF.values(), ids=BAD_EXIF.keys())
def test_exif_that_says_nothing_usable_is_passed_over_without_a_warning(exif: bytes):
    data = encoded(gradient(40, 20), exif=b"Exif\0\0" + exif)
    assert imaging.decode(data).shape == (20, 40, 3)  # a warning would be an error here


def test_decoding_leaves_the_warnings_of_other_threads_alone():
    before = warnings.filters[:]
    threads = [threading.Thread(target=lambda: [imaging.decode(WIRE) for _ in range(50)]) for _ in range(4)]
    data = encoded(Image.new("L", (2100, 2000)), "PNG")
    for thread in threads:
        thread.start()
    imaging.decode(data, limit_px=imaging.DECODE_LIMIT_MAX_PX)
    assert warnings.filters == before
    for thread in threads:
        thread.join()


def segments(jpeg: bytes) -> tuple[bytes, list[bytes]]:
    """What comes before the first scan, and the scans."""
    starts = [at for at in range(len(jpeg)) if jpeg[at : at + 2] == b"\xff\xda"]
    return jpeg[: starts[0]], [jpeg[a:b] for a, b in zip(starts, [*starts[1:], len(jpeg) - 2], strict=True)]


def slow_pictures() -> dict[str, bytes]:
    head, scans = segments(encoded(Image.new("RGB", (2000, 2000), (10, 200, 77)), progressive=True))
    smallest = min(scans, key=len)
    small_jpeg, small_png = encoded(gradient(9, 9)), encoded(gradient(9, 9), "PNG")
    return {
        "scans": head + b"".join(scans) + smallest * (4_000_000 // len(smallest)) + b"\xff\xd9",
        "empty segments": small_jpeg[:2] + b"\xff\xeb\0\x02" * 500_000 + small_jpeg[2:],
        "padding": small_jpeg[:2] + b"\xff" * 2_000_000 + small_jpeg[2:],
        "chunks before": small_png[:33] + chunk(b"abCd", b"") * 300_000 + small_png[33:],
        "empty data": small_png[:33] + chunk(b"IDAT", b"") * 300_000 + small_png[33:],
        "chunks after": small_png[:-12] + chunk(b"abCd", b"") * 300_000 + small_png[-12:],
    }


SLOW = slow_pictures()


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW.keys())
def test_a_picture_made_to_be_slow_ends_at_the_limit(data: bytes):
    begun_s = time.thread_time()
    with pytest.raises(ImageError, match=r"picture takes more than 0\.05 s to decode"):
        imaging.decode(data, limit_s=0.05)
    assert time.thread_time() - begun_s < 0.25  # processor time, which a busy machine does not stretch


INFLATED = zlib.compress(bytes(50_000_000), 9)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_bomb_beside_the_pixels_is_never_inflated(kind: bytes):
    content = b"a\0\x01\0\0\0" if kind == b"iTXt" else b"a\0\0"
    png = encoded(gradient(9, 9), "PNG")
    data = png[:33] + chunk(kind, content + INFLATED) + png[33:]
    try:
        pixels = imaging.decode(data, limit_s=0.05)  # 50 MB would take longer
    except ImageError as err:
        assert "too large" in err.message or "Too much memory" in err.message
    else:
        assert np.array_equal(pixels, by_pillow(png))


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


HUGE = {
    "PNG": png_header(30_000, 30_000) + chunk(b"IDAT", b""),  # no pixels behind it: they must not be asked for
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF"
    + bytes(11)
    + struct.pack(">HHBHHB9x", 0xFFC0, 17, 8, 30_000, 30_000, 3)
    + b"\xff\xda\0\x08"
    + bytes(6),
    "progressive": struct.pack(">HHHBHHB9x", 0xFFD8, 0xFFC2, 17, 8, 30_000, 30_000, 3) + b"\xff\xda\0\x08" + bytes(6),
}


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE.keys())
def test_900_megapixels_are_refused_by_the_header_alone(data: bytes):
    with pytest.raises(ImageError, match="30000 x 30000 = 900.0 megapixels, expected at most 40"):
        imaging.decode(data, limit_px=imaging.DECODE_LIMIT_MAX_PX)


def test_a_canvas_of_268_megapixels_is_refused_by_its_header_alone():
    canvas = (16_384 - 1).to_bytes(3, "little") * 2
    with pytest.raises(ImageError, match="could be decompression bomb DOS attack"):
        imaging.decode(struct.pack("<4sI4s4sI4x", b"RIFF", 22, b"WEBP", b"VP8X", 10) + canvas)


def test_a_line_of_65500_pixels_is_a_picture():
    assert imaging.model_input(encoded(Image.new("RGB", (65_500, 1)), "JPEG"), 224).shape == (224, 224, 3)


FOREIGN = {
    "GIF": encoded(gradient(9, 9), "GIF"),
    "TIFF": encoded(gradient(9, 9), "TIFF"),
    "BMP": encoded(gradient(9, 9), "BMP"),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/"/></svg>',
    "archive with a picture in it": b"PK\x03\x04" + encoded(gradient(9, 9)),
    "GIF with a JPEG behind it": b"GIF89a" + bytes(40) + encoded(gradient(9, 9)),
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN.keys())
def test_other_formats_are_refused_by_their_first_bytes(data: bytes):
    with pytest.raises(ImageError, match=f"{len(data)} bytes are no JPEG, PNG or WebP picture"):
        imaging.decode(data)


def test_of_a_polyglot_the_picture_in_front_counts():
    png = encoded(photo(30, 20), "PNG")
    assert np.array_equal(imaging.decode(png + b"PK\x05\x06" + bytes(18)), by_pillow(png))
    several = encoded(photo(30, 20), exif=Image.Exif().tobytes())
    assert np.array_equal(imaging.decode(several + encoded(photo(50, 50))), by_pillow(several))


def test_of_an_animation_the_first_picture_counts():
    for format in ("PNG", "WEBP"):
        data = encoded(photo(30, 20), format, save_all=True, append_images=[photo(30, 20, 1)], lossless=True)
        assert np.array_equal(imaging.decode(data), np.asarray(photo(30, 20)))


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


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Invalid APNG")
@given(st.binary(max_size=300), st.integers(0, 3))
def test_hostile_bytes_never_escape_as_anything_else(noise: bytes, where: int):
    data = bytearray(encoded(gradient(16, 16), imaging.FORMATS[where % 3]))
    start = min(len(data), 12 + 7 * where)
    data[start : start + len(noise)] = noise
    try:
        imaging.decode(bytes(data))
    except ImageError as err:
        assert "\n" not in err.message
