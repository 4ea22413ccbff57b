"""From encoded picture to model input: the one way that training, evaluation and serving share."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from streetvision.errors import ImageError

DECODE_LIMIT_PX = 4_000_000  # far above the 224 x 224 of regimes R1 and R2
DECODE_LIMIT_MAX_PX = 40_000_000  # regime R3 sends camera pictures at native size
FORMATS = ("JPEG", "PNG", "WEBP")  # what Pillow reads with decoders that are fuzzed in the open
WIRE_JPEG_QUALITY = 75

_HINT = "send a JPEG, PNG or WebP picture"


def decode(data: bytes, *, limit_px: int = DECODE_LIMIT_PX) -> NDArray[np.uint8]:
    """The picture as uint8[H,W,3] RGB, upright by its EXIF orientation.

    Args:
        data: one encoded JPEG, PNG or WebP picture of any mode.
        limit_px: the most pixels that are decoded; a larger picture is refused before its pixels are read.

    Raises:
        ImageError: no picture, truncated, of another format, or larger than `limit_px`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning: our own limit is stricter
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > limit_px:
                raise ImageError(
                    f"picture has {image.width} x {image.height} = {image.width * image.height / 1e6:.1f} megapixels, "
                    f"expected at most {limit_px / 1e6:g}",
                    hint="scale it down, or raise the decode limit",
                )
            return np.array(to_rgb(ImageOps.exif_transpose(image)), dtype=np.uint8)
    except ImageError:
        raise
    except UnidentifiedImageError as err:
        raise ImageError(f"{len(data)} bytes are no JPEG, PNG or WebP picture", hint=_HINT) from err
    except Image.DecompressionBombError as err:
        raise ImageError(f"picture is a decompression bomb: {err}", hint=_HINT) from err
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, MemoryError) as err:
        # Pillow's parsers raise any of these on hostile bytes
        raise ImageError(f"picture of {len(data)} bytes is damaged: {err}", hint=_HINT) from err


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


def model_input(data: bytes, size_px: int, *, limit_px: int = DECODE_LIMIT_PX) -> NDArray[np.uint8]:
    """uint8[S,S,3] RGB as the model takes it, from one encoded picture.

    Raises:
        ImageError: as `decode`.
    """
    return resize(decode(data, limit_px=limit_px), size_px)


def encode_jpeg(image: NDArray[np.uint8], *, quality: int = WIRE_JPEG_QUALITY) -> bytes:
    """JPEG bytes of uint8[H,W,3] RGB with Pillow's default 4:2:0 chroma, as validators encode."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()
