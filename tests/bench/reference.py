"""The validator's way to a view, whole pictures first: what ours is compared with and timed against."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from streetvision.subnet.challenges import Transform


def whole_picture(image: NDArray[np.uint8], transform: Transform) -> NDArray[np.uint8]:
    """uint8[224,224,3]: the picture as a float tensor, rotated as a whole, then cropped and resized."""
    height, width = image.shape[:2]
    angle = math.radians(-transform.angle_deg)
    matrix = torch.tensor([[math.cos(angle), math.sin(angle), 0.0], [-math.sin(angle), math.cos(angle), 0.0]])
    grid = torch.ones(1, height, width, 3)
    grid[..., 0] = torch.linspace(0.5 - width / 2, width / 2 - 0.5, width)
    grid[..., 1] = torch.linspace(0.5 - height / 2, height / 2 - 0.5, height)[:, None]
    grid = grid.view(1, -1, 3).bmm((matrix.T / torch.tensor([width / 2, height / 2]))[None])
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255)
    turned = torch.nn.functional.grid_sample(
        tensor, grid.view(1, height, width, 2), mode="nearest", padding_mode="zeros", align_corners=False
    )
    top, left, side = transform.crop_top, transform.crop_left, transform.crop_height
    square = turned[..., top : top + side, left : left + side]
    small = torch.nn.functional.interpolate(square, size=(224, 224), mode="bilinear", antialias=True)
    return small[0].mul(255).byte().permute(1, 2, 0).contiguous().numpy()
