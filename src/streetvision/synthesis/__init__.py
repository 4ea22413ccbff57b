"""Synthetic pictures: what is asked of an image generator, and the protocol every generator follows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One picture to be made.

    Attributes:
        label: 1 asks for active roadwork, 0 for an ordinary street.
        prompt: what the picture shows.
        seed: the same request with the same seed gives the same picture.
        negative_prompt: what the picture must not look like.
        source: uint8[H,W,3] RGB to be edited (image-to-image); None draws from the prompt alone (text-to-image).
        strength: how far an edit may go from its source: in (0, 1], 1 keeps nothing.
    """

    label: int
    prompt: str
    seed: int
    negative_prompt: str = ""
    source: NDArray[np.uint8] | None = None
    strength: float = 0.7


class Backend(Protocol):
    """An image generator.

    Attributes:
        name: the manifest's `generator`: `procedural`, `sdxl` ...
        revision: changes whenever the same request would give another picture.
    """

    name: str
    revision: str

    def generate(self, requests: Sequence[Request]) -> list[NDArray[np.uint8]]:
        """One uint8[H,W,3] RGB picture per request, in order."""
        ...
