"""From encoded picture to model input: the one way that training, evaluation and serving share."""

import importlib.util
import io
import math
import struct
import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from streetvision.errors import ImageError

# Not in the base install, where Pillow decodes everything, to the same pixels.
simplejpeg: Any = importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None

DECODE_LIMIT_PX = 4_000_000  # far above the 224 x 224 of regimes R1 and R2
DECODE_LIMIT_MAX_PX = 40_000_000  # regime R3 sends camera pictures at native size
DECODE_LIMIT_S = 1.0  # what a server grants a stranger's picture
FORMATS = ("JPEG", "PNG", "WEBP")  # what Pillow reads with decoders that are fuzzed in the open
WIRE_JPEG_QUALITY = 75

_HINT = "send a JPEG, PNG or WebP picture"
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A progressive JPEG may hold thousands of scans in a few kilobytes; the clock is looked at between two blocks.
_PROGRESSIVE_BLOCK = 8192

# The one warning left that hostile bytes can cause. `catch_warnings` is no way: it is not for threads.
warnings.filterwarnings("ignore", message="Invalid APNG", module=r"PIL\.PngImagePlugin")


def decode(data: bytes, *, limit_px: int = DECODE_LIMIT_PX, limit_s: float = math.inf) -> NDArray[np.uint8]:
    """The picture as uint8[H,W,3] RGB, upright by its EXIF orientation.

    May be called from several threads; most of the work runs outside Python's lock.

    Args:
        data: one encoded JPEG, PNG or WebP picture of any mode.
        limit_px: the most pixels that are decoded; a larger picture is refused before its pixels are read.
        limit_s: the most processor time of this thread, in seconds. It is looked at between two reads of the data, so
            that no picture made to be slow goes on for ever. The pixels of a WebP are one step, which `limit_px` bounds
            (measured: 0.06 s a megapixel at most).

    Raises:
        ImageError: no picture, truncated, of another format, larger than `limit_px` or slower than `limit_s`.
    """
    size = _plain_jpeg_size(data)
    if size is not None and simplejpeg is not None:
        _check_size(*size, limit_px)
        try:
            return simplejpeg.decode_jpeg(data, "RGB")
        except ValueError:
            pass  # damaged in some way: what Pillow makes of it decides
    return _decode_with_pillow(data, limit_px=limit_px, limit_s=limit_s)


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG without peculiarities, as challenges are: JFIF, 8 bit, grey or colour, one scan.

    Of such a one Pillow uses nothing but the pixels, and a decoder without Pillow's way around it is twice as fast.
    """
    if not data.startswith(b"\xff\xd8\xff\xe0") or data[6:11] != b"JFIF\0" or data.count(b"\xff\xda") != 1:
        return None
    size, position = None, 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4])
        match marker:
            case 0xDA:  # the scan
                return size
            case 0xC0:  # a baseline frame: 8, precision, height, width, components
                precision, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
                if precision != 8 or components not in (1, 3) or not height or not width:
                    return None
                size = width, height
            case 0xE0 if position == 2 and length >= 16:
                pass
            case 0xDB | 0xC4 | 0xDD:  # tables and restart interval
                pass
            case _:
                return None
        position += 2 + length
    return None


def _check_size(width: int, height: int, limit_px: int) -> None:
    if width * height > limit_px:
        raise ImageError(
            f"picture has {width} x {height} = {width * height / 1e6:.1f} megapixels, "
            f"expected at most {limit_px / 1e6:g}",
            hint="scale it down, or raise the decode limit",
        )


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing: the density is of no use, and finding it parses all of EXIF, with a warning for each fault."""


class _Clocked(io.BytesIO):
    """Bytes that can be read for so much processor time of this thread."""

    def __init__(self, data: bytes, limit_s: float) -> None:
        super().__init__(data)
        self._limit_s = limit_s
        self._end_s = time.thread_time() + limit_s

    def check(self) -> None:
        if time.thread_time() > self._end_s:
            raise ImageError(f"picture takes more than {self._limit_s:g} s to decode", hint="scale it down")

    def read(self, size: int | None = -1, /) -> bytes:
        self.check()
        return super().read(size)


def _decode_with_pillow(data: bytes, *, limit_px: int, limit_s: float) -> NDArray[np.uint8]:
    try:
        file = _Clocked(data, limit_s)
        image = _opened(file)
        _check_size(*image.size, limit_px)
        if image.info.get("progressive"):
            image.decodermaxblock = _PROGRESSIVE_BLOCK
        orientation = _orientation(image.info.get("exif", b""))
        upright = to_rgb(image)
        if orientation in _UPRIGHT:
            upright = upright.transpose(_UPRIGHT[orientation])
        pixels = np.array(upright, dtype=np.uint8)
        file.check()
    except ImageError:
        raise
    except Exception as err:  # hostile bytes make Pillow's parsers raise whatever Python can raise
        reason = str(err).partition("\n")[0][:200] or type(err).__name__
        raise ImageError(f"picture of {len(data)} bytes is damaged: {reason}", hint=_HINT) from err
    return pixels


def _opened(file: io.BytesIO) -> ImageFile:
    """The picture by its first bytes; Pillow's own `open` also warns of sizes and looks for several pictures in one."""
    start = file.getbuffer()[:12].tobytes()
    if start.startswith(b"\xff\xd8\xff"):
        return _Jpeg(file)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile(file)
    if start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        return WebPImageFile(file)
    raise ImageError(f"{file.getbuffer().nbytes} bytes are no JPEG, PNG or WebP picture", hint=_HINT)


def _orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}4xI", tiff)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if (kind, count) == (3, 1) else 1  # one 16-bit number
    except struct.error:
        pass
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB; transparency falls away as Pillow's own conversion lets it, which is what validators do."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:  # 16-bit grey would clip to white
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if values.max(initial=0.0) > 255 else 255.0
        return Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def resize(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """uint8[S,S,3] for the model: the central square in Pillow's bilinear resize, as validators do at level 0.

    A picture that already has that size, as every one of regimes R1 and R2 has for a 224 px model, comes back as it is.
    """
    height, width = image.shape[:2]
    if (height, width) == (size_px, size_px):
        return image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.array(square.resize((size_px, size_px), Image.Resampling.BILINEAR), dtype=np.uint8)


def model_input(
    data: bytes, size_px: int, *, limit_px: int = DECODE_LIMIT_PX, limit_s: float = math.inf
) -> NDArray[np.uint8]:
    """uint8[S,S,3] RGB as the model takes it, from one encoded picture.

    Raises:
        ImageError: as `decode`.
    """
    return resize(decode(data, limit_px=limit_px, limit_s=limit_s), size_px)


def encode_jpeg(image: NDArray[np.uint8], *, quality: int = WIRE_JPEG_QUALITY) -> bytes:
    """JPEG bytes of uint8[H,W,3] RGB with Pillow's default 4:2:0 chroma, as validators encode."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
