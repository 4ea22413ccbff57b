"""Weather and time of day as light: what colours become before they reach the lens."""

from dataclasses import dataclass

import numpy as np

Rgb = tuple[float, float, float]

WEATHERS = ("clear", "overcast", "rain", "fog", "snow")
TIMES = ("day", "dusk", "night")
_WEATHER_SHARES = (0.36, 0.28, 0.16, 0.10, 0.10)
_TIME_SHARES = (0.70, 0.14, 0.16)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Light, air and ground of one scene; gains multiply surface colours, colours are RGB in 0..255."""

    weather: str
    time: str
    season: str  # "summer" | "autumn" | "winter"
    sky_top: Rgb
    sky_low: Rgb
    haze: Rgb
    haze_per_m: float
    ambient: Rgb
    sun: Rgb
    sun_direction: tuple[float, float, float]  # unit, towards the sun, in street axes (u, y, s)
    headlight: float  # gain at the bumper of the camera's own headlights
    wet: float
    snow: float

    @property
    def lamps(self) -> bool:
        """Whether street lamps, windows and vehicles are lit."""
        return self.time != "day"


def _scaled(colour: Rgb, gains: Rgb) -> Rgb:
    return (colour[0] * gains[0], colour[1] * gains[1], colour[2] * gains[2])


def draw_look(rng: np.random.Generator, *, weather: str | None = None, time: str | None = None) -> Look:
    """A random look; `weather` and `time` fix what they name."""
    weather = weather or str(rng.choice(WEATHERS, p=_WEATHER_SHARES))
    time = time or str(rng.choice(TIMES, p=_TIME_SHARES))
    season = "winter" if weather == "snow" else str(rng.choice(("summer", "autumn", "winter"), p=(0.55, 0.3, 0.15)))
    top, low, haze, density, ambient, sun = _DAYLIGHT[weather]
    density *= float(rng.uniform(0.7, 1.4))
    elevation = float(rng.uniform(0.5, 1.15)) if time == "day" else float(rng.uniform(0.12, 0.3))
    azimuth = float(rng.uniform(0, 2 * np.pi))
    if time == "dusk":
        warm: Rgb = (1.0, 0.74, 0.56) if weather in ("clear", "overcast") else (0.74, 0.7, 0.72)
        top, low, haze = (
            _scaled(top, (0.55, 0.52, 0.66)),
            _scaled(low, warm),
            _scaled(haze, _scaled(warm, (0.8, 0.8, 0.85))),
        )
        ambient, sun = _scaled(ambient, (0.6, 0.55, 0.62)), _scaled(sun, (0.95, 0.6, 0.36))
    elif time == "night":
        glow = float(rng.uniform(0.7, 1.3))
        top, low, haze = (9.0, 11.0, 20.0), (34 * glow, 31 * glow, 36 * glow), (30 * glow, 28 * glow, 32 * glow)
        ambient, sun = (0.30 * glow, 0.275 * glow, 0.28 * glow), (0.0, 0.0, 0.0)
    return Look(
        weather=weather,
        time=time,
        season=season,
        sky_top=top,
        sky_low=low,
        haze=haze,
        haze_per_m=density,
        ambient=ambient,
        sun=sun,
        sun_direction=(
            float(np.cos(elevation) * np.sin(azimuth)),
            float(np.sin(elevation)),
            float(np.cos(elevation) * np.cos(azimuth)),
        ),
        headlight={"day": 0.0, "dusk": 0.15, "night": 0.8}[time],
        wet=float(rng.uniform(0.5, 1.0)) if weather == "rain" else float(rng.random() < 0.08) * 0.4,
        snow=float(rng.uniform(0.35, 0.9)) if weather == "snow" else 0.0,
    )


# sky overhead, sky at the horizon, haze, haze per metre, ambient gain, sun gain
_DAYLIGHT: dict[str, tuple[Rgb, Rgb, Rgb, float, Rgb, Rgb]] = {
    "clear": ((86, 138, 200), (196, 214, 230), (190, 206, 222), 0.003, (0.60, 0.64, 0.72), (0.58, 0.53, 0.44)),
    "overcast": ((166, 172, 180), (208, 211, 214), (200, 204, 208), 0.005, (0.80, 0.82, 0.85), (0.08, 0.08, 0.08)),
    "rain": ((122, 129, 138), (168, 174, 180), (158, 165, 172), 0.012, (0.62, 0.65, 0.70), (0.03, 0.03, 0.03)),
    "fog": ((186, 190, 194), (198, 201, 204), (196, 200, 203), 0.026, (0.78, 0.80, 0.82), (0.02, 0.02, 0.02)),
    "snow": ((184, 190, 199), (210, 214, 220), (206, 211, 218), 0.013, (0.80, 0.84, 0.90), (0.05, 0.05, 0.05)),
}
