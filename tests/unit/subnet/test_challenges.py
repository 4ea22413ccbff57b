import io
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from streetvision.errors import DataError, ImageError, SettingsError
from streetvision.imaging import decode, encode_jpeg
from streetvision.subnet import distortions
from streetvision.subnet.challenges import (
    Cell,
    Transform,
    apply,
    cached_picture,
    cell_shares,
    draw_cells,
    draw_challenge,
    draw_transform,
    is_consistent,
    view,
    wire_jpeg,
)
from streetvision.subnet.geometry import centre, letterbox, rotate, shrink
from tests.bench.views import plain_view

STRENGTHS = ("cs", "cc", "jpeg", "gnc", "gb")


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


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


def share_of(shares, **wanted):
    return sum(
        share for cell, share in shares.items() if all(getattr(cell, name) == value for name, value in wanted.items())
    )


@pytest.mark.parametrize("regime", ["R0", "R1", "R2"])
def test_label_source_and_level_of_a_challenge_are_independent(regime):
    shares = cell_shares(regime)
    assert len(shares) == 2 * 3 * 4
    for cell, share in shares.items():
        assert share == pytest.approx({"real": 0.5, "t2i": 0.25, "i2i": 0.25}[cell.source] / 2 / 4)


def test_the_native_regime_has_one_level_and_a_foreign_pool_that_brings_its_labels():
    shares = cell_shares("R3")
    assert {cell.level for cell in shares} == {0}
    assert {cell.source for cell in shares if cell.label is None} == {"api"}
    assert share_of(shares, source="api") == pytest.approx(1 / 3)
    assert share_of(shares, source="real") == pytest.approx(1 / 3)
    assert share_of(shares, source="t2i", label=1) == pytest.approx(1 / 12)


def test_what_a_missing_pool_would_have_had_goes_to_the_others_of_its_label():
    shares = cell_shares("R1", pools={("real", 0), ("real", 1), ("t2i", 0), ("t2i", 1), ("i2i", 1)})
    assert share_of(shares, label=0) == pytest.approx(0.5)
    assert share_of(shares, label=0, source="real") == pytest.approx(0.5 * 2 / 3)
    assert share_of(shares, label=0, source="i2i") == 0
    assert share_of(shares, label=1, source="i2i") == pytest.approx(0.125)


def test_a_missing_foreign_pool_leaves_synthetic_and_real_alike():
    both = {(source, label) for source in ("real", "t2i", "i2i") for label in (0, 1)}
    shares = cell_shares("R3", pools=both)
    assert share_of(shares, source="real") == pytest.approx(0.5)
    assert share_of(shares, source="t2i") == share_of(shares, source="i2i") == pytest.approx(0.25)


def test_a_foreign_pool_of_one_label_is_drawn_from_as_often():
    both = {(source, label) for source in ("real", "t2i", "i2i") for label in (0, 1)}
    assert share_of(cell_shares("R3", pools=both | {("api", 1)}), source="api") == pytest.approx(1 / 3)


def test_a_label_needs_a_pool_that_the_regime_knows():
    pools = [("real", 0), ("drawings", 1)]
    with pytest.raises(DataError, match=r"expected for label 1 at least one of \['i2i', 'real', 't2i'\]"):
        draw_cells(rng(), 10, "R1", pools=pools)


def test_the_halted_regime_yields_no_cells():
    assert draw_cells(rng(), 10, "R4") == []
    assert cell_shares("R4") == {}


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
    assert np.array_equal(apply(street, Transform(level=0)), centre(street))


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
        noise = rng(transform.noise_seed).standard_normal((224, 224, 3))
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


@pytest.mark.parametrize("level", [None, 0, 3])
def test_what_leaves_no_letterbox_goes_out_as_it_is(level):
    line = np.full((4, 1000, 3), 9, dtype=np.uint8)
    transform, jpeg = draw_challenge(rng(), line, regime="R2", level=level)
    assert transform == Transform(level=-1)
    assert decode(jpeg).shape == (4, 1000, 3)
    assert draw_transform(rng(), height=5, width=1000, regime="R2").level >= 0


def test_the_wire_carries_quality_75_with_halved_chroma(street):
    image = Image.open(io.BytesIO(wire_jpeg(centre(street))))
    reference = io.BytesIO()
    Image.fromarray(centre(street)).save(reference, format="JPEG", quality=75)
    expected = Image.open(io.BytesIO(reference.getvalue()))
    assert (image.size, image.mode) == ((224, 224), "RGB")
    assert image.quantization == expected.quantization
    assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]


def test_the_cache_saves_a_jpeg_once_more_and_a_png_not(street):
    camera = encode_jpeg(street, quality=95)
    assert np.array_equal(cached_picture(camera, "JPEG"), decode(encode_jpeg(decode(camera), quality=75)))
    assert not np.array_equal(cached_picture(camera, "JPEG"), decode(camera))
    assert np.array_equal(cached_picture(png(street), "PNG"), street)


def test_a_grey_jpeg_comes_from_the_cache_as_one_that_was_saved_grey(street):
    camera, saved = io.BytesIO(), io.BytesIO()
    Image.fromarray(street).convert("L").save(camera, format="JPEG", quality=95)
    Image.open(camera).save(saved, format="JPEG")
    assert np.array_equal(cached_picture(camera.getvalue(), "JPEG"), decode(saved.getvalue()))


@pytest.mark.parametrize("regime", ["R0", "R1", "R2", "R3"])
def test_a_view_depends_on_its_seed_alone(street, regime):
    data = encode_jpeg(street, quality=90)
    assert view(data, seed=11, regime=regime) == view(data, seed=11, regime=regime)
    assert (view(data, seed=11, regime=regime) == view(data, seed=12, regime=regime)) == (regime == "R3")


def test_a_view_is_the_cached_picture_transformed_and_encoded(street):
    data = encode_jpeg(street, quality=90)
    cached = cached_picture(data, "JPEG")
    assert draw_challenge(rng(5), cached, level=3)[1] == view(data, seed=5, level=3)
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


@pytest.mark.parametrize(("level", "mean_error"), [(0, 0), (1, 0.02), (2, 0.2), (3, 0.4)])
@pytest.mark.parametrize(("height", "width"), [(721, 1280), (1024, 1024)])
def test_pixels_are_those_of_the_plain_way_over_the_whole_picture(level, mean_error, height, width):
    grain = rng(1).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(grain).resize((width, height)))
    for seed in range(3):
        transform = draw_transform(rng(seed), height=height, width=width, level=level)
        error = np.abs(apply(image, transform).astype(int) - plain_view(image, transform))
        assert error.mean() <= mean_error
        assert error.max() <= 3
