"""What stands in a street: the values that composition writes and rendering reads."""

from dataclasses import dataclass

from streetvision.data.procedural.look import Look, Rgb


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object at street position (u, s); long ones reach to (end_u, end_s)."""

    kind: str
    u: float
    s: float
    colour: Rgb = (128.0, 128.0, 128.0)
    size: float = 1.0
    turn: int = 1  # 1 or -1: which way it faces
    variant: float = 0.0  # in [0, 1): which of its kind's shapes
    end_u: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Building:
    """One house whose front stands along the street at `u`, from `s` to `end_s`."""

    u: float
    s: float
    end_s: float
    storeys: int
    wall: Rgb
    trim: Rgb
    roof: Rgb
    shop: Rgb | None  # colour of a shop front
    awning: Rgb | None
    style: int  # shape of the windows
    seed: int


@dataclass(frozen=True, kw_only=True)
class Dig:
    """A patch of opened ground: trench, gravel or milled asphalt."""

    left: float
    right: float
    s: float
    end_s: float
    kind: str  # "trench" | "gravel" | "milled" | "plates"


@dataclass(frozen=True, kw_only=True)
class Street:
    """The road and its edges in metres right of the centre line."""

    kind: str  # "city" | "suburb" | "rural" | "highway"
    left: float
    right: float
    pavement: float
    lines: tuple[float, ...]  # dashed lane lines
    centre: str  # "dashed" | "solid" | "double" | "none"
    yellow: bool
    crossing_s: float | None
    asphalt: float  # albedo
    bend: float
    seed: int
    digs: tuple[Dig, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """Where the camera sits and how its lens behaves."""

    focal: float  # in picture widths
    height_m: float
    lateral_m: float
    pitch: float
    yaw: float
    roll: float
    bonnet: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One street at one moment, drawn from several positions along it."""

    label: int
    look: Look
    street: Street
    viewpoint: Viewpoint
    buildings: tuple[Building, ...]
    things: tuple[Thing, ...]
    description: str  # one sentence, empty where there is no roadwork
    seed: int
