"""Prompts for street scenes with and without roadwork, balanced over what is seen, where, when and in what weather.

The numbers of choices are pairwise coprime, and prompt i takes choice i modulo each number: so any run of prompts holds
every choice, and every pair of choices, equally often (to within one), and no combination returns before all were used.
"""

import random

ROADWORK = (
    "orange traffic cones closing a lane",
    "red and white striped barriers around an open trench",
    "an excavator digging at the kerb",
    "road workers in high-visibility vests on the carriageway",
    "a triangular roadwork sign and a row of cones",
    "a fenced-off construction site taking half of the road",
    "a lane closure with an arrow board on a trailer",
    "an asphalt paver and a roller laying new surface",
    "a temporary traffic light beside a dug-up road",
    "a utility van with cones around an open manhole",
    "concrete barriers narrowing the road to one lane",
)
ORDINARY = (
    "light traffic and a clear road",
    "an orange hatchback driving ahead",
    "a lorry parked at the kerb, nobody around",
    "an ordinary triangular warning sign at the roadside",
    "red and white posts along the pavement",
    "a cyclist in a high-visibility vest",
    "a skip in front of a house",
    "a pile of autumn leaves at the kerb",
    "a refuse lorry collecting bins",
    "an empty road with parked cars on both sides",
    "a crossing guard and schoolchildren at a zebra crossing",
)
WEATHER = (
    "clear sky",
    "light cloud",
    "overcast sky",
    "rain and a wet road",
    "fog",
    "snow at the roadside",
    "low sun and long shadows",
)
TIMES = ("in the morning", "at noon", "in the afternoon", "at dusk", "at night under street lamps")
PLACES = (
    "a city street with tall facades",
    "a suburban residential road",
    "a four-lane avenue",
    "a country road",
    "a motorway",
    "a village main street",
    "a junction with traffic lights",
    "an industrial estate road",
    "a bridge approach",
    "a narrow one-way street",
    "a tree-lined boulevard",
    "a roundabout",
    "a hillside road",
)

_NEGATIVE = (
    "drawing, cartoon, anime, painting, sketch, illustration, stylised, "
    "artificial, computer graphics, 3D render, video game, fantasy, science fiction, "
    "seen from the air, bird's-eye view, satellite, drone, helicopter, top-down, surveillance camera, "
    "indoors, portrait, face, selfie, "
    "vibrant colours, oversaturated, neon, glowing, night vision, thermal image, "
    "fisheye, wide-angle distortion"
)
_NEGATIVE_TEXT_TO_IMAGE = ", motion blur, blurry, out of focus, soft focus, speed blur, camera shake"


def prompts(label: int, count: int, *, seed: int) -> list[str]:
    """`count` prompts that ask for roadwork (label 1) or for a street that only resembles it (label 0)."""
    rng = random.Random(f"{seed}/{label}")  # noqa: S311 (no secret)
    factors = [list(ROADWORK if label else ORDINARY), list(WEATHER), list(TIMES), list(PLACES)]
    for factor in factors:
        rng.shuffle(factor)
    start = rng.randrange(11 * 7 * 5 * 13)
    return [_sentence(*(factor[i % len(factor)] for factor in factors)) for i in range(start, start + count)]


def negative_prompt(*, text_to_image: bool) -> str:
    """What a picture must not look like; blur is forbidden only where there is no source picture to take it from.

    Source: natixnetwork/streetvision-subnet natix/validator/synthetic_data_generation @ 28a1755 (concepts, not words)
    """
    return _NEGATIVE + (_NEGATIVE_TEXT_TO_IMAGE if text_to_image else "")


def _sentence(item: str, weather: str, time: str, place: str) -> str:
    return f"Photorealistic dashcam footage of {place} {time}, {weather}, {item}"
