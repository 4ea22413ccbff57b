import pickle

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from streetvision.data.procedural import render
from streetvision.errors import ImageError, SettingsError
from streetvision.synthesis import Backend, Request
from streetvision.synthesis.procedural import SIZE_PX, ProceduralBackend
from streetvision.synthesis.prompts import prompts

BACKEND: Backend = ProceduralBackend()


def make(**fields: object) -> NDArray[np.uint8]:
    values: dict[str, object] = {"label": 1, "prompt": "", "seed": 0} | fields
    return BACKEND.generate([Request(**values)])[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def street() -> NDArray[np.uint8]:
    """A picture of its own, as the camera saw it."""
    return render.frames(render.compose(1, 3, render.Wishes(weather="overcast", time="day")), 1)[0]


def edges(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 2).astype(np.float64)
    return np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1))


def test_a_prompt_gives_one_square_picture_for_each_request_in_order() -> None:
    wanted = [Request(label=i % 2, prompt=prompt, seed=i) for i, prompt in enumerate(prompts(1, 2, seed=1))]
    drawn = BACKEND.generate(wanted)
    assert [image.shape for image in drawn] == [(SIZE_PX, SIZE_PX, 3)] * 2
    assert np.array_equal(BACKEND.generate(wanted[1:])[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[1])


def test_the_same_request_gives_the_same_picture_and_another_seed_another(street: NDArray[np.uint8]) -> None:
    for source in (None, street):
        first = make(seed=5, source=source)
        assert np.array_equal(first, make(seed=5, source=source))
        assert not np.array_equal(first, make(seed=6, source=source))


def test_the_prompt_decides_time_and_weather() -> None:
    day, night = (
        np.mean([make(label=0, prompt=f"a city street {time}, overcast sky", seed=seed).mean() for seed in range(3)])
        for time in ("at noon", "at night")
    )
    assert night < 0.7 * day


def test_an_edit_keeps_what_its_source_shows(street: NDArray[np.uint8]) -> None:
    square = cv2.resize(street, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    edited = make(source=street, strength=0.7)
    assert edited.shape == square.shape
    agreement = np.corrcoef(edges(square).ravel(), edges(edited).ravel())[0, 1]
    assert agreement > 0.7
    assert np.abs(square.astype(int) - edited).mean() > 4


def test_more_strength_changes_more(street: NDArray[np.uint8]) -> None:
    square = cv2.resize(street, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA).astype(int)
    changes = [
        np.mean([np.abs(square - make(source=street, strength=strength, seed=seed)).mean() for seed in range(3)])
        for strength in (0.05, 0.4, 1.0)
    ]
    assert changes[0] < changes[1] < changes[2]
    assert changes[0] < 4


@pytest.mark.parametrize("shape", [(33, 47, 3), (1, 1, 3), (2, 300, 3), (224, 224, 3)])
def test_a_picture_of_any_small_size_keeps_it(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert make(label=0, source=image, strength=1.0).shape == shape


def test_a_picture_with_a_larger_side_is_squeezed_into_a_square() -> None:
    assert make(source=np.zeros((10, SIZE_PX + 1, 3), np.uint8)).shape == (SIZE_PX, SIZE_PX, 3)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(SettingsError, match="expected more than 0 and at most 1"):
        make(source=np.zeros((8, 8, 3), np.uint8), strength=strength)


@pytest.mark.parametrize(
    ("shape", "kind"), [((8, 8), "uint8"), ((8, 8, 3), "float32"), ((8, 8, 4), "uint8"), ((0, 8, 3), "uint8")]
)
def test_a_source_that_is_no_picture_is_refused(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(ImageError, match=r"expected uint8\[H,W,3\]"):
        make(source=np.zeros(shape, kind))


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="label is `2`"):
        make(label=2)


def test_worker_processes_can_take_it_along() -> None:
    assert pickle.loads(pickle.dumps(BACKEND)).revision == BACKEND.revision
