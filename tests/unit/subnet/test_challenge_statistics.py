"""Frequencies of 20,000 draws against the subnet's: all inside four standard deviations, and a wrong one is not."""

import dataclasses
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from streetvision.challenge_set import freeze
from streetvision.subnet import challenges
from streetvision.subnet.challenges import draw_cells, draw_transform
from streetvision.subnet.regimes import REGIMES

pytestmark = pytest.mark.slow

DRAWS = 20_000
HEIGHT, WIDTH = 720, 1280
STRENGTHS = {2: (("cs", "cc", "jpeg"), 2), 3: (("cs", "cc", "jpeg", "gnc", "gb"), 3)}  # level: names, choices each
CROPPED = {"real": 1 / 2, "t2i": 1 / 4, "i2i": 1 / 4}
SHARES = {"R0": CROPPED, "R1": CROPPED, "R2": CROPPED, "R3": {"real": 1 / 3, "t2i": 1 / 6, "i2i": 1 / 6, "api": 1 / 3}}


class Departures(list[str]):
    """What lies outside four standard deviations."""

    def count(self, what, count, of, share):
        self.mean(what, count, of * share, math.sqrt(of * share * (1 - share)))

    def mean(self, what, value, expected, deviation):
        if abs(value - expected) > 4 * deviation:
            self.append(f"{what}: {value:.4g}, expected {expected:.4g}, {(value - expected) / deviation:.1f} sigma off")

    def uniform(self, what, values):
        """Values that should be uniform from 0 to 1: ten bins, mean and variance."""
        if min(values) < 0 or max(values) > 1:
            self.append(f"{what}: from {min(values):.4g} to {max(values):.4g} of its range")
        for low, count in enumerate(np.histogram(values, 10, (0, 1))[0]):
            self.count(f"{what} from {low / 10}", int(count), len(values), 0.1)
        self.mean(f"mean of {what}", np.mean(values), 1 / 2, math.sqrt(1 / 12 / len(values)))
        self.mean(f"variance of {what}", np.var(values), 1 / 12, math.sqrt(1 / 180 / len(values)))


def departures_of_transforms(draws, height, width):
    """How level, angle, crop, fallback and strengths of regime R1 differ from the specification."""
    found = Departures()
    for level in range(4):
        found.count(f"level {level}", sum(one.level == level for one in draws), len(draws), 1 / 4)
    turned = [one for one in draws if one.level > 0]
    found.uniform("angle", [(one.angle_deg + 20) / 40 for one in turned])
    departures_of_crops(found, turned, height, width)
    for level, (names, choices) in STRENGTHS.items():
        chosen = [one for one in draws if one.level == level]
        for name in names:
            counts = Counter(getattr(one, name) for one in chosen)
            for strength in range(choices):
                found.count(f"{name} {strength} at level {level}", counts[strength], len(chosen), 1 / choices)
            if set(counts) - set(range(choices)):
                found.append(f"{name} at level {level} is {sorted(counts)}")
        clean = sum(not any(getattr(one, name) for name in names) for one in chosen)
        found.count(f"no distortion at level {level}", clean, len(chosen), choices ** -len(names))
    return found


def departures_of_crops(found, turned, height, width):
    """Sides come from areas uniform from 0.2 to 1 that fit, positions from all those inside the picture."""
    pixels, most = height * width, min(height, width)
    largest = min(1.0, (most + 0.5) ** 2 / pixels)  # rounded to the longest side that fits
    fallback = ((1 - largest) / 0.8) ** 10
    longest = (largest - (most - 0.5) ** 2 / pixels) / (largest - 0.2)  # share of that side, which may lie there too
    by_chance = (1 - fallback) * longest / (height - most + 1) / (width - most + 1)
    middle = ((height - most) // 2, (width - most) // 2, most)
    central = [(one.crop_top, one.crop_left, one.crop_height) == middle for one in turned]
    found.count("central square", sum(central), len(turned), fallback + by_chance)
    cropped = [one for one, is_central in zip(turned, central, strict=True) if not (is_central and fallback)]
    if any(one.crop_height != one.crop_width for one in turned):
        found.append("a crop that is no square")
    inside = np.random.default_rng(5).random((len(cropped), 3))  # where in its pixel each value may have lain
    bounds = [
        np.clip([(one.crop_height - 0.5) ** 2 / pixels, (one.crop_height + 0.5) ** 2 / pixels], 0.2, largest)
        for one in cropped
    ]
    areas = [low + within * (high - low) for (low, high), within in zip(bounds, inside[:, 0], strict=True)]
    found.uniform("area", [(area - 0.2) / (largest - 0.2) for area in areas])
    for index, (name, size) in enumerate((("top", height), ("left", width)), 1):
        starts = [getattr(one, f"crop_{name}") for one in cropped]
        room = [size - one.crop_height + 1 for one in cropped]
        found.uniform(name, [(a + v) / n for a, v, n in zip(starts, inside[:, index], room, strict=True)])


def departures_of_cells(cells, regime):
    """How label, source and level differ from the regime's shares, each alone and all together."""
    found = Departures()
    levels = range(4) if regime != "R3" else range(1)
    for source, share in SHARES[regime].items():
        found.count(source, sum(cell.source == source for cell in cells), len(cells), share)
        for label in (0, 1) if source != "api" else (None,):
            for level in levels:
                counted = sum((cell.label, cell.source, cell.level) == (label, source, level) for cell in cells)
                of_label = 1 if label is None else 1 / 2
                found.count(
                    f"{source}, label {label}, level {level}", counted, len(cells), share * of_label / len(levels)
                )
    labelled = [cell for cell in cells if cell.label is not None]
    found.count("label 1", sum(cell.label for cell in labelled), len(labelled), 1 / 2)
    for level in levels:
        found.count(f"level {level}", sum(cell.level == level for cell in cells), len(cells), 1 / len(levels))
    return found


def drawn_transforms(count=DRAWS):
    rng = np.random.default_rng(2024)
    return [draw_transform(rng, height=HEIGHT, width=WIDTH) for _ in range(count)]


def test_transforms_are_drawn_as_the_specification_says():
    assert departures_of_transforms(drawn_transforms(), HEIGHT, WIDTH) == []


def test_square_pictures_are_cut_down_to_any_size():
    rng = np.random.default_rng(7)
    draws = [draw_transform(rng, height=1024, width=1024) for _ in range(DRAWS)]
    assert departures_of_transforms(draws, 1024, 1024) == []


@pytest.mark.parametrize("regime", SHARES)
def test_cells_are_drawn_as_the_specification_says(regime):
    assert departures_of_cells(draw_cells(np.random.default_rng(2024), DRAWS, regime), regime) == []


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("LEVELS", (0, 1, 2, 3, 3), "level 3: "),
        ("MAX_ANGLE_DEG", 19.0, "angle from 0.0: "),
        ("MAX_ANGLE_DEG", 21.0, "angle: from"),
        ("CROP_AREA", (0.22, 1.0), "area from 0.0: "),
        ("CROP_AREA", (0.2, 0.9), "central square: "),
        ("CROP_TRIES", 7, "central square: "),
    ],
)
def test_a_wrong_constant_is_found(monkeypatch, name, wrong, said):
    monkeypatch.setattr(challenges, name, wrong)
    assert said in "\n".join(departures_of_transforms(drawn_transforms(), HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: {"crop_top": one.crop_top and one.crop_top * 49 // 50}, "top"),
        (lambda one: {"gb": one.gb and 1}, "gb 2 at level 3: "),
        (lambda one: {"cs": one.cc, "cc": one.cc}, "no distortion at level 2: "),
        (lambda one: {"angle_deg": one.angle_deg and abs(one.angle_deg)}, "mean of angle: "),
    ],
)
def test_a_wrong_draw_is_found(change, said):
    draws = [dataclasses.replace(one, **change(one)) for one in drawn_transforms()]
    assert said in "\n".join(departures_of_transforms(draws, HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"real": 0.47, "t2i": 0.265, "i2i": 0.265}, "real: "),
        ({"real": 0.2, "t2i": 0.4, "i2i": 0.4}, "t2i, label 1, level 3: "),  # as upstream had it for a week
        ({"real": 0.5, "t2i": 0.5}, "i2i: "),
    ],
)
def test_a_wrong_share_is_found(monkeypatch, shares, said):
    wrong = dataclasses.replace(REGIMES["R1"], source_shares=shares)
    monkeypatch.setattr(challenges, "by_name", lambda name: wrong)
    assert said in "\n".join(departures_of_cells(draw_cells(np.random.default_rng(2024), DRAWS), "R1"))


def test_a_label_drawn_too_often_is_found():
    rng = np.random.default_rng(2024)
    cells = [cell if rng.random() > 0.04 else dataclasses.replace(cell, label=1) for cell in draw_cells(rng, DRAWS)]
    assert "label 1: " in "\n".join(departures_of_cells(cells, "R1"))


def test_a_challenge_set_has_the_shares_transforms_and_pictures_of_the_subnet(challenge_manifest, tmp_path: Path):
    freeze(challenge_manifest, tmp_path / "set", count=2500, seed=3)
    rows = [SimpleNamespace(**row) for row in pq.read_table(tmp_path / "set" / "challenges.parquet").to_pylist()]
    assert departures_of_cells(rows, "R1") == []
    assert departures_of_transforms(rows, 120, 160) == []
    pictures = Departures()
    counts = Counter(row.image for row in rows)
    for picture in challenge_manifest.pictures:
        pool = [row for row in rows if (row.source, row.label) == (picture.source, picture.label)]
        alike = len(challenge_manifest.select(source=picture.source, label=picture.label))
        pictures.count(picture.path, counts[picture.path], len(pool), 1 / alike)
    assert pictures == []
