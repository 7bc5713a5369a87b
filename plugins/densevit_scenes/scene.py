"""Data structures of a scene: camera, light, things and background.

World frame: x right, y up, z forward, in metres. The origin is on the ground, below the camera.
"""

import math
from dataclasses import dataclass, field

from densevit_scenes.shapes import Shape, Vector, dot


def turn(angle: float) -> tuple[float, float]:
    """Returns cosine and sine, rounded: math libraries differ in the last digit, and scenes must be identical."""
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


@dataclass(frozen=True)
class Camera:
    """A camera without roll. focal: relative to the longer side of the image. pitch: downwards, in radians."""

    focal: float
    height: float
    pitch: float
    axes: tuple[Vector, Vector, Vector] = field(init=False)  # the image's right, down and forward, in the world

    def __post_init__(self) -> None:
        cos, sin = turn(self.pitch)
        object.__setattr__(self, "axes", ((1.0, 0.0, 0.0), (0.0, -cos, -sin), (0.0, -sin, cos)))

    def see(self, point: Vector) -> Vector:
        """Converts a world point to camera coordinates: right, down, and along the optical axis."""
        right, down, forward = self.axes
        away = (point[0], point[1] - self.height, point[2])
        return dot(away, right), dot(away, down), dot(away, forward)


@dataclass(frozen=True)
class Coat:
    """The appearance of a thing, independent of its class.

    color: name of the first paint. paints: RGB in 0 ... 1, blended by the texture. stripes_across: the axis across
    which stripes run. texels: texels per metre. phase: offset of the texture, in texels.
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
    """A solid thing. axes: its x, y and z in the world. size: its diameter in metres.

    footprint: radius of its bounding circle, seen from above.
    """

    label: int
    shape: Shape
    size: float
    centre: Vector
    axes: tuple[Vector, Vector, Vector]
    footprint: float
    coat: Coat

    def reach(self, direction: Vector) -> float:
        """Returns the extent of the thing from its centre in a unit direction of the world, in metres."""
        return reach(self.shape, self.axes, direction)


def reach(shape: Shape, axes: tuple[Vector, Vector, Vector], direction: Vector) -> float:
    """Returns the extent of a shape with these axes from its centre in a unit direction of the world, in metres."""
    x, y, z = axes
    return shape.reach((dot(x, direction), dot(y, direction), dot(z, direction)))


@dataclass(frozen=True)
class Wall:
    """A vertical wall: the points with (x, z) . normal = distance. The room is on the camera's side."""

    normal: tuple[float, float]
    distance: float


@dataclass(frozen=True)
class Surface:
    """The appearance of floor, wall or sky. paints: RGB in 0 ... 1, blended by the tile. texels: texels per metre.
    turn: (cos, sin).
    """

    tile: str
    paints: tuple[Vector, Vector]
    texels: float
    turn: tuple[float, float]
    phase: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A scene. light: unit vector towards the light. walls: two walls that form a corner; none outdoors."""

    camera: Camera
    light: Vector
    ambient: float
    diffuse: float
    things: tuple[Thing, ...]
    walls: tuple[Wall, ...]
    floor: Surface
    backdrop: Surface  # the walls, or the sky
    grain: int  # seed of the sensor noise
