import numpy as np
import pytest

from streetvision.data.procedural.camera import FAR_M, Camera


def camera(**changes: float) -> Camera:
    values: dict[str, float] = {"focal_px": 500.0, "height_m": 1.4, "lateral_m": 1.6, "advance_m": 3.0} | changes
    return Camera(width_px=640, height_px=360, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [{}, {"pitch": 0.08, "yaw": -0.1, "roll": 0.04}, {"bend": 0.002}, {"pitch": -0.05, "bend": -0.001, "roll": -0.03}],
)
def test_a_pixel_sees_the_ground_point_that_lands_on_it(changes: dict[str, float]) -> None:
    view = camera(**changes)
    u, s = view.ground()
    for row, column in ((u.shape[0] - 1, 10), (u.shape[0] // 2, 320), (u.shape[0] - 30, 600)):
        spot = view.to_camera(float(u[row, column]), 0.0, float(s[row, column]))
        x, y = view.to_pixels(spot)
        assert (x, y) == pytest.approx((column, row + view.horizon_row), abs=0.05)


def test_rows_above_the_horizon_see_no_ground() -> None:
    view = camera(pitch=0.06, roll=0.03)
    _, s = view.ground()
    assert s.max() <= FAR_M * 1.1 + view.advance_m
    left, right = (view.to_pixels(view.to_camera(u, 0.0, 4000.0))[1] for u in (-2400.0, 2400.0))
    assert view.horizon_row <= min(left, right) + 2


def test_driving_on_brings_things_nearer_and_lower_in_the_picture() -> None:
    spots = [camera(advance_m=a).to_camera(0.0, 0.0, 20.0) for a in (0.0, 5.0)]
    assert spots[1][2] == pytest.approx(spots[0][2] - 5.0)
    rows = [camera().to_pixels(spot)[1] for spot in spots]
    assert rows[1] > rows[0]


def test_looking_down_raises_the_horizon() -> None:
    assert camera(pitch=0.1).horizon_row < camera().horizon_row < camera(pitch=-0.1).horizon_row


def test_the_rotation_keeps_lengths() -> None:
    rotation = camera(pitch=0.1, yaw=0.2, roll=0.3).rotation
    assert np.allclose(rotation @ rotation.T, np.eye(3))
