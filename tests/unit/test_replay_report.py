import io
import math

import numpy as np
import pytest
from PIL import Image

from streetvision.report.replay import replay_png
from streetvision.subnet.replay import Event, Replay

ORANGE, BLUE = (216, 106, 0), (37, 99, 168)  # network, score


def drawn(events, **options):
    replay = Replay()
    for event in events:
        replay.add(event)
    with Image.open(io.BytesIO(replay_png(replay, **options))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def right(count, hotkey="a"):
    return [Event(float(i % 2), i % 2, hotkey) for i in range(count)]


def shows(picture, color):
    return bool((abs(picture - color) <= 3).all(axis=-1).any())


def shaded(picture):
    return (abs(picture - (220, 229, 235)) <= 1).all(axis=-1)


def inked(picture):
    return picture.max(axis=-1) < 110


def span(mask):
    """Left and right end of the plot's columns that have much of something, as shares of its width; None if none."""
    found = np.flatnonzero(mask[40:-70].sum(axis=0) > 40)  # between legend and axis
    return None if not len(found) else (found[0] / mask.shape[1], found[-1] / mask.shape[1])


def test_score_and_network_are_drawn():
    picture = drawn(right(50))
    assert shows(picture, BLUE)
    assert shows(picture, ORANGE)
    assert span(shaded(picture)) is None
    assert span(inked(picture)) is None


def test_the_network_is_left_out_where_other_rules_held():
    assert not shows(drawn(right(50), network=False), ORANGE)


def test_a_spell_of_poison_is_shaded_where_it_lasts():
    picture = drawn([*right(100), Event(math.nan, 1, "a"), *right(300)])
    left, end = span(shaded(picture))
    plot = 0.05, 0.84  # of the picture's width
    place = [(share - plot[0]) / (plot[1] - plot[0]) for share in (left, end)]
    assert place == pytest.approx([0.25, 0.5], abs=0.02)


def test_a_new_hotkey_is_marked_in_the_middle():
    picture = drawn([*right(200), *right(200, "b")])
    left, end = span(inked(picture))
    assert end - left < 0.01
    assert left == pytest.approx(0.445, abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 2000])
def test_few_and_many_events_are_drawn_too(count):
    assert shows(drawn(right(2) * count if count > 2 else right(count)), ORANGE)


def test_a_hotkey_that_changes_all_the_time_is_drawn_quickly():
    events = [Event(0.9, 1, str(i)) for i in range(5000)]
    assert span(inked(drawn(events))) is not None
