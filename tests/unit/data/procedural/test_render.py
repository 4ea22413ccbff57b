from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from streetvision.data.procedural import furniture, gear, lookalikes, people, render, roadwork, signs, streets, vehicles
from streetvision.data.procedural.look import TIMES, WEATHERS
from streetvision.data.procedural.render import Wishes
from streetvision.data.procedural.scene import Scene
from streetvision.subnet import challenges

_MACHINES = {"excavator", "roller", "works lorry"}
_ROADWORK = {*gear.DRAW, *_MACHINES, "worker", "works triangle", "works diamond", "detour sign"}


def picture(scene: Scene) -> NDArray[np.uint8]:
    return render.frames(scene, 1)[0]


@pytest.mark.parametrize("weather", WEATHERS)
def test_every_weather_can_be_drawn(weather: str) -> None:
    scene = render.compose(1, 5, Wishes(weather=weather, time="dusk"))
    image = picture(scene)
    assert scene.look.weather == weather
    assert image.shape == (360, 640, 3)
    assert image.dtype == np.uint8
    assert image.std() > 15


@pytest.mark.parametrize("street", streets.KINDS)
def test_every_street_can_be_drawn(street: str) -> None:
    assert picture(render.compose(0, 3, Wishes(street=street))).std() > 15


def test_nights_are_darker_than_days() -> None:
    levels = {
        time: np.mean(
            [picture(render.compose(0, seed, Wishes(weather="overcast", time=time))).mean() for seed in range(4)]
        )
        for time in TIMES
    }
    assert levels["night"] < levels["dusk"] < levels["day"]


@pytest.mark.parametrize("label", [0, 1])
def test_every_kind_of_thing_can_be_drawn(label: int) -> None:
    drawable = {*vehicles.DRAW, *people.DRAW, *signs.DRAW, *gear.DRAW, *furniture.DRAW}
    items = roadwork.ITEMS if label else lookalikes.KINDS
    kinds = {
        thing.kind for seed in range(12) for thing in render.compose(label, seed, Wishes(items=frozenset(items))).things
    }
    assert kinds <= drawable
    picture(render.compose(label, 4, Wishes(items=frozenset(items))))
    # leaf piles are drawn as spoil is
    assert bool(kinds & (_ROADWORK - {"spoil"})) == bool(label)


def test_only_roadwork_is_described() -> None:
    for seed in range(20):
        assert render.compose(0, seed).description == ""
        sentence = render.compose(1, seed).description
        assert sentence.startswith("Roadwork on the ")
        assert sentence.endswith(".")
        assert sentence.count(".") == 1


def test_roadwork_survives_most_of_the_crops_that_validators_cut() -> None:
    rng = np.random.default_rng(0)
    seen: list[bool] = []
    for seed in range(10):
        scene = render.compose(1, seed, Wishes(weather="overcast", time="day"))
        street = replace(scene.street, digs=())
        bare = replace(
            scene, street=street, things=tuple(thing for thing in scene.things if thing.kind not in _ROADWORK)
        )
        changed = np.abs(picture(scene).astype(int) - picture(bare)).max(axis=2) > 40
        for _ in range(10):
            cut = challenges.draw_transform(rng, height=360, width=640, level=1)
            assert cut.crop_top is not None
            assert cut.crop_left is not None
            assert cut.crop_height is not None
            part = changed[cut.crop_top :, cut.crop_left :][: cut.crop_height, : cut.crop_height]
            seen.append(bool(part.mean() > 0.02))
    assert np.mean(seen) > 0.8


def test_a_thing_behind_the_camera_changes_no_pixel_but_its_shadow() -> None:
    scene = render.compose(0, 7, Wishes(weather="overcast", time="day"))
    behind = streets.Thing(kind="excavator", u=0.0, s=-40.0, colour=(255.0, 0.0, 0.0))
    assert np.array_equal(picture(scene), picture(replace(scene, things=(*scene.things, behind))))


def test_frames_of_a_scene_differ_because_the_camera_moves_on() -> None:
    first, second = render.frames(render.compose(1, 11, Wishes(weather="clear", time="day")), 2)
    difference = np.abs(first.astype(int) - second).mean()
    assert 3 < difference < 70


def test_neither_class_has_an_orange_of_its_own() -> None:
    def orange(image: NDArray[np.uint8]) -> bool:
        red, green, blue = (image[..., i].astype(int) for i in range(3))
        return bool(((red > 140) & (red > green + 50) & (green > blue + 15)).mean() > 0.004)

    shares = [np.mean([orange(picture(render.compose(label, seed))) for seed in range(12)]) for label in (0, 1)]
    assert min(shares) >= 0.4
