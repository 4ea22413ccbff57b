import hashlib

import numpy as np
import pytest

from streetvision.subnet import distortions
from tests.bench import views as plain

RUN = {
    "CS": lambda image, strength: distortions.fade(image, distortions.CHROMA_SCALE[strength]),
    "CC": lambda image, strength: distortions.darken(image, distortions.BRIGHTNESS_SCALE[strength]),
    "JPEG": lambda image, strength: distortions.coarsen(image, distortions.COARSENESS[strength]),
    "GNC": lambda image, strength: distortions.add_noise(
        image, distortions.NOISE_VARIANCE[strength], np.random.RandomState(0).randn(*image.shape)
    ),
    "GB": lambda image, strength: distortions.blur(image, distortions.BLUR_KERNEL_PX[strength]),
}
PLAIN = {
    "CS": lambda image, strength: plain.plain_fade(image, plain.CHROMA[strength]),
    "CC": lambda image, strength: (image * np.float32(plain.BRIGHTNESS[strength])).astype(np.uint8),
    "JPEG": lambda image, strength: plain.plain_coarsen(image, plain.FACTOR[strength]),
    "GNC": lambda image, strength: plain.plain_noise(
        image, plain.VARIANCE[strength], np.random.RandomState(0).randn(*image.shape)
    ),
    "GB": lambda image, strength: plain.plain_blur(image, plain.KERNEL[strength]),
}


def flat(colour):
    return np.full((8, 8, 3), colour, dtype=np.uint8)


@pytest.mark.parametrize("strength", [1, 2])
@pytest.mark.parametrize("code", RUN)
def test_every_pixel_equals_the_recorded_one(golden_pictures, computed_picture, code, strength):
    recorded = golden_pictures["distortion_golden"]["results"][f"{code}{strength}"]
    distorted = RUN[code](computed_picture(64, 64), strength)
    assert distorted.dtype == np.uint8
    assert distorted.mean(axis=(0, 1)).tolist() == pytest.approx(recorded["mean"], abs=1e-9)
    assert distorted[0, 0].tolist() == recorded["pix"][0]
    assert hashlib.sha256(distorted.tobytes()).hexdigest() == recorded["sha256_round"]


@pytest.mark.parametrize("strength", [1, 2])
@pytest.mark.parametrize(("code", "mean_error"), [("CS", 0.5), ("CC", 0), ("JPEG", 0.3), ("GNC", 0.05), ("GB", 0.3)])
def test_every_distortion_is_the_plain_one_but_for_rounding(street, code, strength, mean_error):
    image = street[:224, 200:424]
    error = np.abs(RUN[code](image, strength).astype(int) - PLAIN[code](image, strength))
    assert error.mean() <= mean_error
    assert error.max() <= 2


def fused(values, factor, offset):
    """float32 of `values * factor + offset`, rounded once, as a processor's fused multiply-add has it."""
    return (values.astype(np.float64) * np.float64(np.float32(factor)) + offset).astype(np.float32)


@pytest.mark.parametrize("strength", [1, 2])
def test_fading_is_exact_with_the_fused_steps_of_opencv(strength):
    image = np.random.default_rng(strength).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    red, green, blue = np.moveaxis(image.astype(np.float32), -1, 0)
    y = fused(red, 0.299, fused(green, 0.587, np.float32(0.114) * blue))
    f = np.float32
    scaled = [fused(red - y, 0.713, 0.5), fused(blue - y, 0.564, 0.5)]
    scaled = [((chroma * f(224) + f(16)) / f(255) - f(0.5)) * f((1, 0.4, 0.3)[strength]) + f(0.5) for chroma in scaled]
    cr, cb = [(chroma * f(255) - f(16)) / f(224) - f(0.5) for chroma in scaled]
    y = ((y * f(219) + f(16)) / f(255) * f(255) - f(16)) / f(219)
    expected = np.stack([fused(cr, 1.403, y), fused(cr, -0.714, fused(cb, -0.344, y)), fused(cb, 1.773, y)], axis=-1)
    faded = distortions.fade(image, distortions.CHROMA_SCALE[strength])
    assert np.array_equal(faded, expected.astype(np.int32).astype(np.uint8))


@pytest.mark.parametrize("code", RUN)
def test_the_picture_itself_stays_as_it_is(computed_picture, code):
    image = computed_picture(64, 64)
    RUN[code](image, 2)
    assert np.array_equal(image, computed_picture(64, 64))


def test_fading_moves_grey_and_red_as_recorded(golden_pictures):
    assert distortions.fade(flat(128), 0.4)[0, 0].tolist() == golden_pictures["cs_on_midgray_128"]
    for strength, colour in golden_pictures["cs_on_pure_red"].items():
        scale = distortions.CHROMA_SCALE[int(strength)]
        assert distortions.fade(flat((255, 0, 0)), scale)[0, 0].tolist() == colour


def test_fading_wraps_around_instead_of_clipping():
    red = distortions.fade(flat((255, 0, 0)), 1.5)[0, 0]  # more chroma, as no validator has it: red passes 255
    assert red[0] < 128


@pytest.mark.parametrize("strength", [1, 2])
def test_noise_on_grey_is_as_strong_as_recorded(golden_pictures, strength):
    grey = np.full((512, 512, 3), 128, dtype=np.uint8)
    noise = np.random.RandomState(7).randn(512, 512, 3)
    noisy = distortions.add_noise(grey, distortions.NOISE_VARIANCE[strength], noise)
    recorded = golden_pictures["gnc_on_midgray"][str(strength)]
    np.testing.assert_allclose(noisy.std(axis=(0, 1)), recorded["std_rgb"], rtol=0.02)
    np.testing.assert_allclose(noisy.mean(axis=(0, 1)), recorded["mean_rgb"], atol=0.4)


@pytest.mark.parametrize("strength", [1, 2])
def test_darkening_is_exact_for_every_value(strength):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    hundredths = (1000, 850, 725)[strength]
    expected = values.astype(int) * hundredths // 1000
    assert np.array_equal(distortions.darken(values, distortions.BRIGHTNESS_SCALE[strength]), expected)


def test_darkening_truncates():
    assert distortions.darken(flat((255, 101, 1)), 0.85)[0, 0].tolist() == [216, 85, 0]
