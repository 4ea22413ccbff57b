"""Colour that gives the label away is found, and colour that does not is not."""

from pathlib import Path

import numpy as np
import pytest

from streetvision import imaging
from streetvision.data import manifest
from streetvision.data.baseline import colour_baseline
from streetvision.data.manifest import Manifest, Picture


def pictures(root: Path, *, hue: bool) -> Manifest:
    """Sixty noisy pictures; those of label 1 are redder if `hue`."""
    rng = np.random.default_rng(0)
    with manifest.write(root) as writer:
        rows = []
        for number in range(60):
            label = number % 2
            noise = rng.integers(0, 200, (36, 64, 3), dtype=np.uint8)
            noise[..., 0] += np.uint8(50 * label * hue)
            sha256 = writer.store(imaging.encode_jpeg(noise), encoding="JPEG")
            rows.append(
                Picture(
                    sha256=sha256,
                    path="",
                    label=label,
                    source="real",
                    generator="test",
                    group=f"g{number}",
                    split="train",
                    format="JPEG",
                    description="Roadwork" * label,
                    prompt="",
                    seed=None,
                    phash="0" * 64,
                )
            )
        writer.finish(rows)
    return Manifest.read(root)


@pytest.mark.parametrize("hsv", [False, True])
def test_a_label_that_colour_gives_away_is_found(tmp_path: Path, hsv: bool):
    assert colour_baseline(pictures(tmp_path / "m", hue=True), hsv=hsv) > 0.95


def test_a_label_without_colour_is_a_coin_toss(tmp_path: Path):
    assert 0.25 < colour_baseline(pictures(tmp_path / "m", hue=False)) < 0.75
