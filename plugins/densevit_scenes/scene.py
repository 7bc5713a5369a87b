"""Data structures of a scene: camera, light, things, walls and surfaces.

World frame: x right, y up, z ahead, in metres; the camera stands above the origin, which lies on the ground.
"""

import math
from dataclasses import dataclass, field

from densevit_scenes.shapes import Shape, Vector, dot


def turn(angle: float) -> tuple[float, float]:
    """Cosine and sine, rounded: mathematical libraries differ in the last digit, and scenes must not."""
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


@dataclass(frozen=True)
class Camera:
    """A camera without roll. focal: in sides of the image, the longer of the two. pitch: looking down, in radians."""

    focal: float
    height: float
    pitch: float
    axes: tuple[Vector, Vector, Vector] = field(init=False)  # the image's right, down and forward, in the world

    def __post_init__(self) -> None:
        cos, sin = turn(self.pitch)
        object.__setattr__(self, "axes", ((1.0, 0.0, 0.0), (0.0, -cos, -sin), (0.0, -sin, cos)))

    def see(self, point: Vector) -> Vector:
        """A point of the world on the camera's axes: to the right, below, and along the optical axis."""
        right, down, forward = self.axes
        away = (point[0], point[1] - self.height, point[2])
        return dot(away, right), dot(away, down), dot(away, forward)


@dataclass(frozen=True)
class Coat:
    """Colours and texture of a thing, independent of its class.

    color: the name of the first of its paints. paints: RGB, 0 ... 1, blended by the texture. stripes_across: an axis.
    texels: a metre. phase: where the texture begins, in texels.
    """

    color: str
    paints: tuple[Vector, Vector]
    texture: str
    stripes_across: int
    texels: float
    phase: Vector
    gloss: float


@dataclass(frozen=True)
class Thing:
    """A solid thing. axes: its own x, y and z in the world. size: the diameter that its shape was scaled to, in metres.

    footprint: the radius round its centre, seen from above, within which it stands.
    """

    label: int
    shape: Shape
    size: float
    centre: Vector
    axes: tuple[Vector, Vector, Vector]
    footprint: float
    coat: Coat

    def reach(self, direction: Vector) -> float:
        """Extent from its centre in a unit direction of the world, in metres."""
        return reach(self.shape, self.axes, direction)


def reach(shape: Shape, axes: tuple[Vector, Vector, Vector], direction: Vector) -> float:
    """How far a shape with these axes reaches from its centre in a unit direction of the world, in metres."""
    x, y, z = axes
    return shape.reach((dot(x, direction), dot(y, direction), dot(z, direction)))


@dataclass(frozen=True)
class Wall:
    """An upright wall, the points with (x, z) . normal = distance. The room lies on the camera's side of it."""

    normal: tuple[float, float]
    distance: float


@dataclass(frozen=True)
class Surface:
    """How a floor, wall or sky looks. paints: RGB, 0 ... 1, blended by the tile. texels: a metre. turn: cos, sin."""

    tile: str
    paints: tuple[Vector, Vector]
    texels: float
    turn: tuple[float, float]
    phase: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """All that an image shows. light: the unit vector towards it. walls: two that form a corner; none outdoors."""

    camera: Camera
    light: Vector
    ambient: float
    diffuse: float
    things: tuple[Thing, ...]
    walls: tuple[Wall, ...]
    floor: Surface
    backdrop: Surface  # the walls, or the sky
    grain: int  # picks the sensor's noise
