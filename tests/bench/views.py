"""Challenges: how long they take, and the validator's own way to them, whole pictures first and everything plainly.

The plain way is written from the description of the subnet alone. The unit tests hold ours against its pixels.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from streetvision.imaging import encode_jpeg
from streetvision.subnet import challenges
from streetvision.subnet.challenges import Transform
from tests.bench.measure import Figure

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

CHROMA = (1, 0.4, 0.3)
BRIGHTNESS = (1, 0.85, 0.725)
FACTOR = (1, 2, 3)
VARIANCE = (0, 0.001, 0.002)
KERNEL = (1, 7, 9)


def views(repeat: int) -> Iterator[Figure]:
    """Processor time of challenges of one 1280x720 picture, the two ways side by side in one run on one thread."""
    picture = photo()
    opened, jpeg = Image.fromarray(picture), encode_jpeg(picture, quality=90)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for level in range(4):
            rng = np.random.default_rng(level)
            drawn = [
                challenges.draw_transform(rng, height=720, width=1280, level=level)
                for _ in range((40 if level == 0 else 15) * repeat)
            ]
            ours, theirs = interleaved(
                [lambda one=one: challenges.apply(picture, one) for one in drawn],
                [lambda one=one: plain_view(picture, one) for one in drawn],
            )
            yield Figure(f"view of a decoded 1280x720 picture, level {level}", "ms", 1000 * ours, None, len(drawn))
            way, budget = ("Pillow's crop and resize", 1.0) if level == 0 else ("the plain way", 1 / 4)
            yield Figure(f"  as a share of {way}", "", ours / theirs, budget, len(drawn))
        whole, _ = interleaved([lambda: challenges.view(jpeg, seed=1)] * 10 * repeat, [lambda: opened.size])
        yield Figure("from JPEG to JPEG, cache included", "ms", 1000 * whole, None, 10 * repeat)
        cached = challenges.cached_picture(jpeg, "JPEG")
        more, _ = interleaved(
            [
                lambda seed=seed: challenges.draw_challenge(np.random.default_rng(seed), cached)
                for seed in range(10 * repeat)
            ],
            [lambda: opened.size],
        )
        yield Figure("  each further challenge of that picture", "ms", 1000 * more, None, 10 * repeat)
    finally:
        torch.set_num_threads(threads)


def interleaved(ours: list[Callable[[], object]], theirs: list[Callable[[], object]]) -> tuple[float, float]:
    """Median processor seconds of both, taken in turn."""
    mine: list[float] = []
    other: list[float] = []
    for index, work in enumerate(ours):
        mine.append(processor_seconds(work))
        other.append(processor_seconds(theirs[index % len(theirs)]))
    return statistics.median(mine), statistics.median(other)


def processor_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def photo() -> Pixels:
    """uint8[720,1280,3] with the smooth shading, edges and grain of a photo."""
    rng = np.random.default_rng(4)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))
    picture = np.array(coarse.resize((1280, 720), Image.Resampling.BICUBIC), dtype=np.int16)
    picture[400:, 500:600] = (240, 120, 20)
    return np.clip(picture + rng.integers(-12, 13, picture.shape), 0, 255).astype(np.uint8)


def plain_view(image: Pixels, transform: Transform) -> Pixels:
    """The picture as a validator of regime R1 transforms it, uint8[224,224,3]."""
    if transform.level == 0:
        height, width = image.shape[:2]
        side = min(height, width)
        left, top = round((width - side) / 2), round((height - side) / 2)
        square = Image.fromarray(image).crop((left, top, left + side, top + side))
        return np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR))
    turned = whole_rotation(image, transform.angle_deg)
    top, left, side = transform.crop_top, transform.crop_left, transform.crop_height
    square = turned[..., top : top + side, left : left + side]
    small = torch.nn.functional.interpolate(square, size=(224, 224), mode="bilinear", antialias=True)
    return plain_distortions(small[0].mul(255).byte().permute(1, 2, 0).contiguous().numpy(), transform)


def whole_rotation(image: Pixels, angle_deg: float) -> torch.Tensor:
    """float[1,3,H,W] from 0 to 1: the whole picture, turned about its centre to the nearest pixel."""
    height, width = image.shape[:2]
    angle = math.radians(-angle_deg)
    matrix = torch.tensor([[math.cos(angle), math.sin(angle), 0.0], [-math.sin(angle), math.cos(angle), 0.0]])
    grid = torch.ones(1, height, width, 3)
    grid[..., 0] = torch.linspace(0.5 - width / 2, width / 2 - 0.5, width)
    grid[..., 1] = torch.linspace(0.5 - height / 2, height / 2 - 0.5, height)[:, None]
    grid = grid.view(1, -1, 3).bmm((matrix.T / torch.tensor([width / 2, height / 2]))[None])
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255)
    return torch.nn.functional.grid_sample(
        tensor, grid.view(1, height, width, 2), mode="nearest", padding_mode="zeros", align_corners=False
    )


def plain_distortions(image: Pixels, transform: Transform) -> Pixels:
    if transform.cs:
        image = plain_fade(image, CHROMA[transform.cs])
    if transform.cc:
        image = (image * np.float32(BRIGHTNESS[transform.cc])).astype(np.uint8)
    if transform.jpeg:
        image = plain_coarsen(image, FACTOR[transform.jpeg])
    if transform.gnc:
        noise = np.random.Generator(np.random.PCG64(transform.noise_seed)).standard_normal(image.shape)
        image = plain_noise(image, VARIANCE[transform.gnc], noise)
    if transform.gb:
        image = plain_blur(image, KERNEL[transform.gb])
    return image


def plain_fade(image: Pixels, scale: float) -> Pixels:
    y, cb, cr = to_ycbcr(image)
    half, scale = np.float32(0.5), np.float32(scale)
    return to_rgb(y, half + (cb - half) * scale, half + (cr - half) * scale).astype(np.int32).astype(np.uint8)


def plain_coarsen(image: Pixels, factor: int) -> Pixels:
    height, width = image.shape[:2]
    return plain_resize(plain_resize(image, height // factor, width // factor), height, width)


def plain_noise(image: Pixels, variance: float, noise: NDArray[np.float64]) -> Pixels:
    noisy = np.stack(to_ycbcr(image), axis=-1) / np.float32(255) + math.sqrt(variance) * noise
    y, cb, cr = np.moveaxis((noisy * 255).astype(np.float32), -1, 0)
    return np.clip(to_rgb(y, cb, cr), 0, 255).astype(np.uint8)


def plain_blur(image: Pixels, size: int) -> Pixels:
    reach = size // 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (size / 6)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    height, width = image.shape[:2]
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect").astype(np.float32)
    rows = sum(kernel[k] * padded[k : k + height] for k in range(size))
    return np.rint(sum(kernel[k] * rows[:, k : k + width] for k in range(size))).astype(np.uint8)


def plain_resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear between the two nearest pixels, without antialiasing."""
    above, below, down = neighbours(image.shape[0], height)
    before, after, across = neighbours(image.shape[1], width)
    values = image.astype(np.float32)
    rows = values[above] * (1 - down[:, None, None]) + values[below] * down[:, None, None]
    columns = rows[:, before] * (1 - across[None, :, None]) + rows[:, after] * across[None, :, None]
    return np.floor(columns + 0.5).astype(np.uint8)


def neighbours(size: int, out: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    position = np.clip((np.arange(out) + 0.5) * (size / out) - 0.5, 0, size - 1)
    first = np.floor(position).astype(np.intp)
    return first, np.minimum(first + 1, size - 1), (position - first).astype(np.float32)


def to_ycbcr(image: Pixels) -> tuple[Floats, Floats, Floats]:
    """Y, Cb and Cr, float32[H,W] each, as if pixels ran from 0 to 1."""
    red, green, blue = np.moveaxis(image.astype(np.float32), -1, 0)
    f = np.float32
    y = f(0.299) * red + f(0.587) * green + f(0.114) * blue
    cr, cb = f(0.713) * (red - y) + f(0.5), f(0.564) * (blue - y) + f(0.5)
    return (f(219) * y + f(16)) / f(255), (f(224) * cb + f(16)) / f(255), (f(224) * cr + f(16)) / f(255)


def to_rgb(y: Floats, cb: Floats, cr: Floats) -> Floats:
    f = np.float32
    y = (f(255) * y - f(16)) / f(219)
    cb, cr = (f(255) * cb - f(16)) / f(224) - f(0.5), (f(255) * cr - f(16)) / f(224) - f(0.5)
    return np.stack([y + f(1.403) * cr, y - f(0.714) * cr - f(0.344) * cb, y + f(1.773) * cb], axis=-1)
