import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streetvision.errors import ImageError
from streetvision.subnet.geometry import centre, fits_letterbox, letterbox, rotate, shrink


def rotated_whole(image, angle_deg):
    """The plain way: every pixel of the canvas, with the float32 steps of torchvision's tensor rotation."""
    height, width = image.shape[:2]
    angle = math.radians(angle_deg)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - np.float32((width - 1) / 2), y - np.float32((height - 1) / 2)
    half_width, half_height = np.float32(width / 2), np.float32(height / 2)
    grid_x = x * (cos / half_width) + y * (-sin / half_width)
    grid_y = x * (sin / half_height) + y * (cos / half_height)
    columns = np.rint(((grid_x + 1) * width - 1) / 2).astype(int)
    rows = np.rint(((grid_y + 1) * height - 1) / 2).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    out = np.zeros_like(image)
    out[inside] = image[rows[inside], columns[inside]]
    return out


def shrunk_plainly(image):
    """Pillow's antialiased bilinear resize of float planes, truncated."""
    planes = [
        np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((224, 224), Image.Resampling.BILINEAR))
        for c in range(3)
    ]
    return np.floor(np.stack(planes, axis=-1) + 1e-4).astype(np.uint8)


@given(st.integers(3, 90), st.integers(3, 90), st.floats(-20, 20), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_the_rotated_square_equals_that_of_the_whole_rotated_picture(height, width, angle_deg, size, down, across):
    image = np.random.default_rng(0).integers(1, 256, (height, width, 3), dtype=np.uint8)
    side = 1 + round(size * (min(height, width) - 1))
    top, left = round(down * (height - side)), round(across * (width - side))
    square = rotated_whole(image, angle_deg)[top : top + side, left : left + side]
    assert np.array_equal(rotate(image, angle_deg, top, left, side), square)


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (541, 963), (1024, 1024)])
def test_rotation_of_large_pictures_is_pixel_equal_to_the_plain_way(height, width):
    image = np.random.default_rng(height).integers(1, 256, (height, width, 3), dtype=np.uint8)
    side, angle_deg = min(height, width), 17.7
    assert np.array_equal(rotate(image, angle_deg, 0, width - side, side), rotated_whole(image, angle_deg)[:, -side:])


def test_a_positive_angle_turns_counter_clockwise_and_leaves_black_corners():
    image = np.full((101, 101, 3), 9, dtype=np.uint8)
    image[50, 90] = 255  # right of the centre
    turned = rotate(image, 20.0, 0, 0, 101)
    row, column = np.argwhere(turned[..., 0] == 255)[0]
    assert row < 45
    assert column > 80
    assert turned[0, 0].tolist() == turned[-1, -1].tolist() == [0, 0, 0]


def test_no_angle_is_a_plain_crop(street):
    assert np.array_equal(rotate(street, 0.0, 20, 30, 300), street[20:320, 30:330])


def test_a_panorama_too_long_to_rotate_is_refused():
    with pytest.raises(ImageError, match="picture is 32767 x 1 pixels, expected sides of at most 32766"):
        rotate(np.zeros((1, 32767, 3), dtype=np.uint8), 3.0, 0, 0, 1)


@pytest.mark.parametrize("side", [1, 7, 100, 223, 224, 225, 322, 360, 720, 1080])
def test_shrinking_equals_a_float_resize_but_for_rounding(computed_picture, side):
    image = computed_picture(side, side)
    error = np.abs(shrink(image).astype(int) - shrunk_plainly(image))
    assert error.mean() < 0.06
    assert error.max() <= 1


def test_shrinking_keeps_flat_pictures_as_they_are():
    for value in (0, 1, 127, 128, 255):
        assert np.all(shrink(np.full((401, 401, 3), value, dtype=np.uint8)) == value)


def test_shrinking_at_wire_size_changes_nothing(computed_picture):
    assert np.array_equal(shrink(computed_picture(224, 224)), computed_picture(224, 224))


def test_shrinking_truncates_where_pillow_rounds(street):
    image = street[:, :360]
    rounded = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR), dtype=int)
    assert 0.4 < (rounded - shrink(image)).mean() < 0.6


@pytest.mark.parametrize(
    ("width", "height", "top", "bottom"), [(1920, 1080, 49, 49), (1280, 720, 49, 50), (1024, 1024, 0, 0)]
)
def test_the_letterbox_has_the_bars_of_the_specification(width, height, top, bottom):
    boxed = letterbox(np.full((height, width, 3), 200, dtype=np.uint8))
    assert boxed.shape == (224, 224, 3)
    assert not boxed[:top].any()
    assert not boxed[224 - bottom :].any()
    assert np.all(boxed[top : 224 - bottom] == 200)


def test_the_letterbox_of_a_tall_picture_has_its_bars_at_the_sides():
    boxed = letterbox(np.full((400, 200, 3), 200, dtype=np.uint8))
    assert not boxed[:, :56].any()
    assert not boxed[:, 168:].any()
    assert np.all(boxed[:, 56:168] == 200)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 224), (5, 1000), (1000, 5)])
def test_the_letterbox_takes_a_point_and_a_long_line(height, width):
    assert fits_letterbox(height, width)
    assert letterbox(np.full((height, width, 3), 50, dtype=np.uint8)).any()


@pytest.mark.parametrize(("height", "width"), [(1, 900), (900, 1), (4, 1000)])
def test_a_line_of_which_no_letterbox_is_left_is_refused(height, width):
    assert not fits_letterbox(height, width)
    with pytest.raises(ImageError, match=f"picture is {width} x {height} pixels, of which no letterbox of 224 is left"):
        letterbox(np.full((height, width, 3), 50, dtype=np.uint8))


@pytest.mark.parametrize(("width", "left"), [(224, 0), (225, 0), (226, 1), (227, 2), (229, 2), (231, 4)])
def test_an_odd_margin_is_halved_to_the_even_pixel(width, left):
    image = np.random.default_rng(0).integers(0, 256, (224, width, 3), dtype=np.uint8)
    assert np.array_equal(centre(image), image[:, left : left + 224])
    assert np.array_equal(centre(image.swapaxes(0, 1)), image.swapaxes(0, 1)[left : left + 224])


def test_the_central_square_is_pillow_s_own_crop_and_resize(street):
    square = Image.fromarray(street).crop((140, 0, 500, 360))
    assert np.array_equal(centre(street), np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR)))


def test_level_0_equals_the_recorded_picture(golden_pictures, computed_picture):
    recorded = golden_pictures["level0_golden"]
    plain = centre(computed_picture(540, 960))
    error = np.abs(plain[0, :4].astype(int) - recorded["first_row_first_4_pixels"])
    assert error.max() <= 3  # versions of Pillow may differ
    assert plain.mean(axis=(0, 1)).tolist() == pytest.approx(recorded["mean"], abs=0.5)
    if error.max() == 0:
        assert hashlib.sha256(plain.tobytes()).hexdigest() == recorded["sha256"]
