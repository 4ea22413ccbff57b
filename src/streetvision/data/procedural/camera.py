"""A pinhole camera in a street: where points of the street land in the picture, and which ground a pixel sees.

Street coordinates are metres: `u` to the right of the road's centre line, `y` above the ground, `s` along the street.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Triple = tuple[float, float, float]

FAR_M = 400.0  # ground further off than this looks like the horizon


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera that looks along the street; angles in radians, `bend` the street's curvature in 1/m."""

    width_px: int
    height_px: int
    focal_px: float
    height_m: float
    lateral_m: float
    advance_m: float
    pitch: float = 0.0  # positive looks down
    yaw: float = 0.0  # positive looks right
    roll: float = 0.0  # positive turns the picture clockwise
    bend: float = 0.0

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        """float64[3,3] from street axes (right, down, forward) to the camera's."""
        cp, sp = np.cos(self.pitch), np.sin(self.pitch)
        cy, sy = np.cos(self.yaw), np.sin(self.yaw)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        yaw = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw

    @cached_property
    def _turn(self) -> tuple[float, ...]:
        return tuple(float(value) for value in self.rotation.ravel())

    def to_camera(self, u: float, y: float, s: float) -> Triple:
        """The street point in camera axes (right, down, depth).

        Plain floats: a picture has some thousand points in groups of four, too few for arrays to pay.
        """
        a, b, c, d, e, f, g, h, i = self._turn
        z = s - self.advance_m
        x = u - self.lateral_m + self.bend * z * abs(z)
        v = self.height_m - y
        return (a * x + b * v + c * z, d * x + e * v + f * z, g * x + h * v + i * z)

    def to_pixels(self, spot: Triple) -> tuple[float, float]:
        """Pixel position of a point in camera axes whose depth is positive."""
        scale = self.focal_px / spot[2]
        return (spot[0] * scale + self.width_px / 2, spot[1] * scale + self.height_px / 2)

    @cached_property
    def horizon_row(self) -> int:
        """First pixel row that sees any ground."""
        x = np.array([-self.width_px / 2, self.width_px / 2]) / self.focal_px
        down = self.rotation[:, 1]  # the ray's downward part is down . (x, y, 1)
        rows = -(down[0] * x + down[2]) / down[1] * self.focal_px + self.height_px / 2
        return int(np.clip(np.floor(rows.min()), 0, self.height_px - 1))

    def ground(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(u, s), each float32[R,W]: the ground that the pixels from `horizon_row` on see; beyond `FAR_M` it is cut."""
        x = ((np.arange(self.width_px) - self.width_px / 2) / self.focal_px).astype(np.float32)
        y = ((np.arange(self.horizon_row, self.height_px) - self.height_px / 2) / self.focal_px).astype(np.float32)
        r = self.rotation.astype(np.float32)  # street axis j of the ray (x, y, 1) is column j
        right, down, forward = (np.add.outer(r[1, j] * y + r[2, j], r[0, j] * x) for j in range(3))
        reach = self.height_m / np.maximum(down, self.height_m / FAR_M)
        z = forward * reach
        u = right * reach + np.float32(self.lateral_m) - np.float32(self.bend) * z * np.abs(z)
        return u, z + np.float32(self.advance_m)
