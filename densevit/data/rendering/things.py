"""The classes of things, each with random proportions and poses; and the coats, the same for all classes."""

import math
from collections.abc import Callable

from densevit.data.rendering.draws import Draws
from densevit.data.rendering.scene import Coat
from densevit.data.rendering.shapes import Ball, Boxes, Cone, Cylinder, Pyramid, Shape, Star, Vector
from densevit.data.rendering.textures import SOLIDS

UPRIGHT, LYING = 0.0, math.pi / 2

Posed = tuple[Shape, float]
"""A shape, and by how much it is tilted round its x axis so that it rests on something flat."""


def _ball(draws: Draws, size: float) -> Posed:
    return Ball(size / 2), draws.between(-math.pi, math.pi)


def _box(draws: Draws, size: float) -> Posed:
    x, y, z = (size * draws.between(0.28, 0.42) for _ in range(3))
    return Boxes([(-x, -y, -z)], [(x, y, z)]), UPRIGHT


def _cylinder(draws: Draws, size: float) -> Posed:
    shape = Cylinder(size * draws.between(0.24, 0.34), size * draws.between(0.38, 0.5))
    return shape, draws.choose((UPRIGHT, LYING))


def _cone(draws: Draws, size: float) -> Posed:
    radius, half_height = size * draws.between(0.34, 0.44), size * draws.between(0.42, 0.5)
    on_its_side = LYING + math.atan2(radius, 2 * half_height)
    return Cone(radius, half_height), on_its_side if draws.chance(0.3) else UPRIGHT


def _pyramid(draws: Draws, size: float) -> Posed:
    half_base, half_height = size * draws.between(0.36, 0.44), size * draws.between(0.34, 0.46)
    on_its_side = LYING + math.atan2(half_base, 2 * half_height)
    return Pyramid(half_base, half_height), on_its_side if draws.chance(0.25) else UPRIGHT


def _ring(draws: Draws, size: float) -> Posed:
    shape = Cylinder(size / 2, size * draws.between(0.08, 0.15), bore=size * draws.between(0.26, 0.34))
    return shape, draws.choose((UPRIGHT, LYING))


def _star(draws: Draws, size: float) -> Posed:
    return Star(size * 0.55, size * draws.between(0.08, 0.14)), LYING if draws.chance(0.75) else UPRIGHT


def _chair(draws: Draws, size: float) -> Posed:
    wide, deep, high = size * draws.between(0.26, 0.34), size * draws.between(0.26, 0.34), size * 0.5
    seat, thin = size * draws.between(-0.1, 0.04), size * 0.1
    low = [(-wide, seat - thin, -deep), (-wide, seat, deep - thin)]
    top = [(wide, seat, deep), (wide, high, deep)]
    for x in (-wide, wide - thin):
        for z in (-deep, deep - thin):
            low.append((x, -high, z))
            top.append((x + thin, seat - thin, z + thin))
    return Boxes(low, top), LYING if draws.chance(0.15) else UPRIGHT


THINGS: dict[str, Callable[[Draws, float], Posed]] = {
    "ball": _ball,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "pyramid": _pyramid,
    "ring": _ring,
    "star": _star,
    "chair": _chair,
}
FACING = ("ring", "star")  # edge-on these could be anything: where they stand, they face the camera by and large

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (196, 48, 44),
    "orange": (226, 124, 38),
    "yellow": (232, 196, 60),
    "lime": (142, 186, 58),
    "green": (48, 132, 74),
    "teal": (42, 150, 150),
    "sky blue": (98, 168, 218),
    "blue": (50, 86, 182),
    "violet": (120, 74, 168),
    "pink": (222, 120, 160),
    "brown": (128, 84, 52),
    "white": (226, 222, 212),
    "grey": (128, 130, 134),
    "black": (48, 48, 54),
}


def draw_coat(draws: Draws, size: float) -> Coat:
    """A coat for a thing of some size, in metres: small and large things have as many stripes."""
    color = draws.choose(tuple(COLORS))
    return Coat(
        color=color,
        paints=_paints(draws, color),
        texture=draws.choose(SOLIDS),
        stripes_across=draws.whole(3),
        texels=32 / (size * draws.between(0.8, 1.6)),
        phase=(64 + 32 * draws.unit(), 64 + 32 * draws.unit(), 64 + 32 * draws.unit()),
        gloss=max(0.0, draws.between(-0.3, 0.6)),
    )


def _paints(draws: Draws, color: str) -> tuple[Vector, Vector]:
    """The colour, and another one, a darker or a paler."""
    first = _shade_of(draws, color)
    r, g, b = first
    if draws.chance(0.4):
        return first, _shade_of(draws, draws.choose(tuple(COLORS)))
    if draws.chance(0.5):
        return first, (r * 0.5, g * 0.5, b * 0.5)
    return first, (0.4 + r * 0.6, 0.4 + g * 0.6, 0.4 + b * 0.6)


def _shade_of(draws: Draws, color: str) -> Vector:
    gain = draws.between(0.85, 1.15)
    r, g, b = (min(max(c / 255 * gain + draws.between(-0.05, 0.05), 0.0), 1.0) for c in COLORS[color])
    return r, g, b
