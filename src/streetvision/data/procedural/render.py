"""From a label and a seed to a scene, and from a scene to pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streetvision.data.procedural import (
    backdrop,
    furniture,
    gear,
    ground,
    lens,
    lookalikes,
    people,
    roadwork,
    signs,
    streets,
    vehicles,
)
from streetvision.data.procedural.camera import Camera
from streetvision.data.procedural.canvas import Canvas
from streetvision.data.procedural.look import draw_look
from streetvision.data.procedural.scene import Building, Scene, Thing, Viewpoint

WIDTH_PX, HEIGHT_PX = 640, 360  # 16:9, as dashboard cameras record
_DRAW: dict[str, Callable[[Canvas, Thing], None]] = {
    **vehicles.DRAW,
    **people.DRAW,
    **signs.DRAW,
    **gear.DRAW,
    **furniture.DRAW,
}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a scene must have; None and nothing leave it to chance."""

    weather: str | None = None
    time: str | None = None
    street: str | None = None
    items: frozenset[str] = frozenset()  # of `roadwork.ITEMS` for label 1, kinds of lookalikes for label 0


def compose(label: int, seed: int, wishes: Wishes | None = None) -> Scene:
    """The scene that belongs to a label, a seed and wishes."""
    wishes = wishes or Wishes()
    rng = np.random.default_rng(seed)
    look = draw_look(rng, weather=wishes.weather, time=wishes.time)
    street, drive_u = streets.draw_street(rng, wishes.street)
    plan = streets.Plan(rng, look, street, drive_u)
    description = roadwork.add(plan, wishes.items) if label else ""
    if label:
        lookalikes.add(plan, int(rng.integers(0, 4)))
    else:
        lookalikes.add(plan, int(rng.integers(4, 9)), wishes.items)
    streets.fill(plan)
    viewpoint = Viewpoint(
        focal=float(rng.uniform(0.68, 0.95)),
        height_m=float(rng.uniform(1.25, 1.9)),
        lateral_m=drive_u + float(rng.normal(0, 0.25)),
        pitch=float(rng.normal(0.03, 0.035)),
        yaw=float(rng.normal(0, 0.045)),
        roll=float(rng.normal(0, 0.018)),
        bonnet=bool(rng.random() < 0.3),
    )
    return Scene(
        label=label,
        look=look,
        street=plan.street,
        viewpoint=viewpoint,
        buildings=streets.draw_buildings(rng, plan.street),
        things=tuple(plan.things),
        description=description,
        seed=seed,
    )


def draw(scene: Scene, camera: Camera, map_: ground.GroundMap) -> Canvas:
    """The scene before the lens, far things first."""
    canvas = Canvas(camera, scene.look)
    backdrop.sky(canvas, scene)
    backdrop.skyline(canvas, scene)
    ground.draw(canvas, map_)
    parts: list[tuple[float, Building | Thing]] = [(house.end_s, house) for house in scene.buildings]
    parts += [(max(thing.s, thing.end_s), thing) for thing in scene.things]
    for _, part in sorted(parts, key=lambda item: -item[0]):
        if isinstance(part, Building):
            backdrop.house(canvas, part)
        elif _in_sight(camera, part):
            _DRAW[part.kind](canvas, part)
    return canvas


def _in_sight(camera: Camera, thing: Thing) -> bool:
    """Whether any of the thing, which is at most 6 m to a side and 9 m long, may be in the picture."""
    across, _, depth = camera.to_camera(thing.u, 0.0, thing.s)
    reach = (depth + 9.0) * camera.width_px / (2 * camera.focal_px) + 6.0
    return depth > -9.0 and -reach < across < reach


def frames(scene: Scene, count: int) -> list[NDArray[np.uint8]]:
    """`count` pictures uint8[360,640,3] of the scene, the camera moving forward from each to the next."""
    map_ = ground.paint(scene)
    rng = np.random.default_rng([scene.seed, 1])
    camera = camera_of(scene, WIDTH_PX, HEIGHT_PX)
    pictures: list[NDArray[np.uint8]] = []
    for _ in range(count):
        canvas = draw(scene, camera, map_)
        pictures.append(lens.develop(canvas, rng, bonnet=scene.seed if scene.viewpoint.bonnet else None))
        camera = replace(
            camera,
            advance_m=camera.advance_m + float(rng.uniform(0.8, 2.2)),
            lateral_m=camera.lateral_m + float(rng.normal(0, 0.08)),
            pitch=camera.pitch + float(rng.normal(0, 0.006)),
            yaw=camera.yaw + float(rng.normal(0, 0.012)),
            roll=camera.roll + float(rng.normal(0, 0.006)),
        )
    return pictures


def camera_of(scene: Scene, width_px: int, height_px: int) -> Camera:
    """The camera at the scene's viewpoint."""
    view = scene.viewpoint
    return Camera(
        width_px=width_px,
        height_px=height_px,
        focal_px=view.focal * width_px,
        height_m=view.height_m,
        lateral_m=view.lateral_m,
        advance_m=0.0,
        pitch=view.pitch,
        yaw=view.yaw,
        roll=view.roll,
        bend=scene.street.bend,
    )
