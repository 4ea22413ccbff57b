import io
import math
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from streetvision.errors import DataError, ImageError, SettingsError
from streetvision.imaging import decode, encode_jpeg, resize
from streetvision.subnet import distortions
from streetvision.subnet.challenges import (
    Cell,
    Transform,
    apply,
    cache_generation,
    distort,
    draw_cells,
    draw_transform,
    is_consistent,
    view,
    wire_jpeg,
)
from streetvision.subnet.geometry import letterbox, rotate, shrink
from tests.bench.reference import whole_picture

DRAWS = 20_000
STRENGTHS = ("cs", "cc", "jpeg", "gnc", "gb")


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def inside_4_sigma(count, of, share):
    return abs(count - of * share) <= 4 * math.sqrt(of * share * (1 - share))


@pytest.fixture(scope="module")
def draws():
    generator = rng(2024)
    return [draw_transform(generator, height=540, width=960) for _ in range(DRAWS)]


def test_levels_are_drawn_evenly(draws):
    counts = Counter(transform.level for transform in draws)
    assert set(counts) == {0, 1, 2, 3}
    assert all(inside_4_sigma(count, DRAWS, 0.25) for count in counts.values())


def test_angles_are_uniform_within_20_degrees(draws):
    angles = np.array([transform.angle_deg for transform in draws if transform.level > 0])
    assert np.abs(angles).max() <= 20
    assert abs(angles.mean()) <= 4 * (40 / math.sqrt(12)) / math.sqrt(len(angles))
    assert all(inside_4_sigma(count, len(angles), 0.1) for count in np.histogram(angles, 10, (-20, 20))[0])


def test_crops_are_as_in_the_recorded_run(draws, golden_pictures):
    recorded = golden_pictures["golden_run"]["crop"]
    cropped = [transform for transform in draws if transform.level > 0]
    sides = np.array([transform.crop_height for transform in cropped])
    tops = np.array([transform.crop_top for transform in cropped])
    lefts = np.array([transform.crop_left for transform in cropped])
    assert [transform.crop_width for transform in cropped] == sides.tolist()
    assert sides.min() == recorded["side_min"]
    assert sides.max() == recorded["side_max"]
    assert np.all((tops >= 0) & (tops + sides <= 540) & (lefts >= 0) & (lefts + sides <= 960))
    shares = sides**2 / (540 * 960)
    assert abs(shares.mean() - (0.2 + 0.5625) / 2) <= 4 * (0.3625 / math.sqrt(12)) / math.sqrt(len(shares))
    assert all(inside_4_sigma(count, len(shares), 0.1) for count in np.histogram(shares, 10, (0.2, 0.5625))[0])
    assert abs((lefts / (960 - sides)).mean() - 0.5) < 0.02


def test_the_central_square_is_the_last_resort(draws):
    central = [
        transform
        for transform in draws
        if (transform.crop_top, transform.crop_left, transform.crop_height) == (0, 210, 540)
    ]
    cropped = sum(transform.level > 0 for transform in draws)
    assert inside_4_sigma(len(central), cropped, ((1 - 9 / 16) / 0.8) ** 10)


@pytest.mark.parametrize(("level", "drawn", "most"), [(2, 3, 1), (3, 5, 2)])
def test_strengths_are_drawn_evenly(draws, level, drawn, most):
    chosen = [transform for transform in draws if transform.level == level]
    for name in STRENGTHS[:drawn]:
        counts = Counter(getattr(transform, name) for transform in chosen)
        assert set(counts) == set(range(most + 1))
        assert all(inside_4_sigma(count, len(chosen), 1 / (most + 1)) for count in counts.values())
    assert {getattr(transform, name) for transform in chosen for name in STRENGTHS[drawn:]} <= {None}


def test_level_0_has_nothing_and_level_1_no_strengths():
    assert draw_transform(rng(), height=540, width=960, level=0) == Transform(level=0)
    first = draw_transform(rng(), height=540, width=960, level=1)
    assert first.angle_deg is not None
    assert all(getattr(first, name) is None for name in STRENGTHS)


def test_a_picture_too_narrow_for_every_crop_is_cut_in_its_middle():
    transform = draw_transform(rng(), height=100, width=1000, level=1)
    assert (transform.crop_top, transform.crop_left, transform.crop_height, transform.crop_width) == (0, 450, 100, 100)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_letterbox_regime_rotates_but_never_crops(level):
    transform = draw_transform(rng(3), height=540, width=960, regime="R2", level=level)
    assert transform.angle_deg is not None
    assert transform.crop_height is None


def test_the_native_regime_draws_nothing():
    assert draw_transform(rng(), height=540, width=960, regime="R3") == Transform(level=0)


@pytest.mark.parametrize(
    ("regime", "level", "message"),
    [("R4", None, "is halted"), ("R7", None, "expected one of R0"), ("R1", 4, "level is 4")],
)
def test_what_cannot_be_drawn_is_refused_with_a_sentence(regime, level, message):
    with pytest.raises(SettingsError, match=message):
        draw_transform(rng(), height=540, width=960, regime=regime, level=level)


def test_cells_have_the_shares_of_the_regime():
    cells = draw_cells(rng(6), DRAWS, "R1")
    shares = {"real": 0.5, "t2i": 0.25, "i2i": 0.25}
    counts = Counter(cells)
    assert len(counts) == 2 * 3 * 4
    for cell, count in counts.items():
        assert inside_4_sigma(count, DRAWS, shares[cell.source] * 0.5 * 0.25)


def test_cells_of_the_native_regime_know_one_level_and_the_foreign_pool():
    cells = draw_cells(rng(6), 3000, "R3")
    assert {cell.level for cell in cells} == {0}
    counts = Counter(cell.source for cell in cells)
    assert inside_4_sigma(counts["api"], 3000, 1 / 3)
    assert inside_4_sigma(counts["t2i"], 3000, 1 / 6)


def test_cells_share_out_what_a_missing_pool_would_have_had():
    counts = Counter(cell.source for cell in draw_cells(rng(6), 3000, "R1", sources=["real", "t2i"]))
    assert set(counts) == {"real", "t2i"}
    assert inside_4_sigma(counts["real"], 3000, 2 / 3)


def test_cells_need_a_pool_that_the_regime_knows():
    with pytest.raises(DataError, match=r"pools are \['drawings'\], expected at least one of \['i2i', 'real', 't2i'\]"):
        draw_cells(rng(), 10, "R1", sources=["drawings"])


def test_the_halted_regime_yields_no_cells():
    assert draw_cells(rng(), 10, "R4") == []


def test_equal_seeds_draw_equal_cells():
    assert draw_cells(rng(3), 50) == draw_cells(rng(3), 50) != draw_cells(rng(4), 50)
    assert all(isinstance(cell, Cell) and type(cell.label) is int for cell in draw_cells(rng(3), 50))


@pytest.mark.parametrize(
    ("description", "label", "consistent"),
    [("cones on the left", 1, True), ("", 0, True), ("", 1, False), ("a clear street", 0, False)],
)
def test_a_picture_is_described_if_and_only_if_it_shows_roadwork(description, label, consistent):
    assert is_consistent(description, label) is consistent


def test_level_0_is_the_central_square(street):
    assert np.array_equal(apply(street, Transform(level=0)), resize(street, 224))


@pytest.mark.parametrize("seed", range(6))
def test_a_crop_goes_through_rotation_shrinking_and_every_distortion_in_order(street, seed):
    transform = draw_transform(rng(seed), height=360, width=640, level=3)
    top, left, side = transform.crop_top, transform.crop_left, transform.crop_height
    assert top is not None
    assert left is not None
    assert side is not None
    expected = shrink(rotate(street, transform.angle_deg or 0.0, top, left, side))
    expected = distortions.fade(expected, (1, 0.4, 0.3)[transform.cs]) if transform.cs else expected
    expected = distortions.darken(expected, (1, 0.85, 0.725)[transform.cc]) if transform.cc else expected
    expected = distortions.coarsen(expected, (1, 2, 3)[transform.jpeg]) if transform.jpeg else expected
    if transform.gnc:
        noise = np.random.RandomState(transform.noise_seed)
        expected = distortions.add_noise(expected, (0, 0.001, 0.002)[transform.gnc], noise)
    expected = distortions.blur(expected, (1, 7, 9)[transform.gb]) if transform.gb else expected
    assert np.array_equal(apply(street, transform), expected)


def test_the_letterbox_regime_rotates_the_boxed_picture(street):
    assert np.array_equal(apply(street, Transform(level=0), regime="R2"), letterbox(street))
    turned = apply(street, Transform(level=1, angle_deg=12.0), regime="R2")
    assert np.array_equal(turned, rotate(letterbox(street), 12.0, 0, 0, 224))


def test_the_native_regime_sends_the_picture_as_it_is(street):
    assert apply(street, Transform(level=0), regime="R3") is street


def test_the_halted_regime_sends_nothing(street):
    with pytest.raises(SettingsError, match="is halted"):
        apply(street, Transform(level=0), regime="R4")


def test_a_transform_of_another_regime_is_refused(street):
    with pytest.raises(DataError, match="has no crop"):
        apply(street, Transform(level=1, angle_deg=12.0), regime="R1")


def test_the_wire_carries_quality_75_with_halved_chroma(street):
    image = Image.open(io.BytesIO(wire_jpeg(resize(street, 224))))
    reference = io.BytesIO()
    Image.fromarray(resize(street, 224)).save(reference, format="JPEG", quality=75)
    expected = Image.open(io.BytesIO(reference.getvalue()))
    assert (image.size, image.mode) == ((224, 224), "RGB")
    assert image.quantization == expected.quantization
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


def test_the_cache_saves_a_jpeg_once_more_and_a_png_not(street):
    camera = encode_jpeg(street, quality=95)
    assert cache_generation(camera, "JPEG") == encode_jpeg(decode(camera), quality=75)
    assert cache_generation(png(street), "PNG") == png(street)


@pytest.mark.parametrize("regime", ["R0", "R1", "R2", "R3"])
def test_a_view_depends_on_its_seed_alone(street, regime):
    data = encode_jpeg(street, quality=90)
    assert view(data, seed=11, regime=regime) == view(data, seed=11, regime=regime)
    assert (view(data, seed=11, regime=regime) == view(data, seed=12, regime=regime)) == (regime == "R3")


def test_a_view_is_the_cached_picture_transformed_and_encoded(street):
    data = encode_jpeg(street, quality=90)
    cached = decode(cache_generation(data, "JPEG"))
    transform = draw_transform(rng(5), height=360, width=640, level=3)
    assert view(data, seed=5, level=3) == wire_jpeg(apply(cached, transform))
    transform = draw_transform(rng(5), height=360, width=640, level=2)
    assert view(png(street), seed=5, level=2) == wire_jpeg(apply(street, transform))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "RGB"])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_view_takes_any_mode(street, mode, level):
    buffer = io.BytesIO()
    Image.fromarray(street[:64, :48]).convert(mode).save(buffer, format="JPEG" if mode == "CMYK" else "PNG")
    assert decode(view(buffer.getvalue(), seed=1, level=level)).shape == (224, 224, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 2)])
@pytest.mark.parametrize("regime", ["R1", "R2"])
def test_a_view_takes_a_line_and_a_point(shape, regime):
    data = png(np.full((*shape, 3), 77, dtype=np.uint8))
    for level in range(4):
        assert decode(view(data, seed=level, regime=regime, level=level)).shape == (224, 224, 3)


def test_a_view_of_no_picture_is_refused():
    with pytest.raises(ImageError):
        view(b"no picture", seed=0)


def test_the_transform_has_the_columns_of_a_challenge_set():
    assert [field.name for field in fields(Transform)] == [
        "level", "angle_deg", "crop_top", "crop_left", "crop_height", "crop_width", *STRENGTHS, "noise_seed",
    ]  # fmt: skip


@pytest.mark.slow  # rotates whole pictures in torch, a tenth of a second each
@pytest.mark.parametrize("level", [1, 2, 3])
def test_crops_equal_those_of_the_whole_picture_in_torch(level):
    image = np.array(Image.fromarray(rng(1).integers(0, 256, (90, 160, 3), dtype=np.uint8)).resize((1280, 720)))
    for seed in range(8):
        transform = draw_transform(rng(seed), height=720, width=1280, level=level)
        expected = distort(whole_picture(image, transform), transform)
        error = np.abs(apply(image, transform).astype(int) - expected)
        assert error.mean() <= 0.1
        assert error.max() <= 3
