"""Classes of things, with random proportions and poses, and random coats (appearance), independent of the class."""

import math
from collections.abc import Callable

from densevit_scenes.portable_rng import PortableRng
from densevit_scenes.scene import Coat
from densevit_scenes.shapes import Ball, BoxUnion, Cone, Cylinder, Pyramid, Shape, Star, Vector
from densevit_scenes.textures import SOLIDS

UPRIGHT, LYING = 0.0, math.pi / 2

Posed = tuple[Shape, float]
"""A shape, and the tilt about its x axis at which it rests on a plane."""


def _ball(rng: PortableRng, size: float) -> Posed:
    return Ball(size / 2), rng.uniform(-math.pi, math.pi)


def _box(rng: PortableRng, size: float) -> Posed:
    x, y, z = (size * rng.uniform(0.28, 0.42) for _ in range(3))
    return BoxUnion([(-x, -y, -z)], [(x, y, z)]), UPRIGHT


def _cylinder(rng: PortableRng, size: float) -> Posed:
    shape = Cylinder(size * rng.uniform(0.24, 0.34), size * rng.uniform(0.38, 0.5))
    return shape, rng.choice((UPRIGHT, LYING))


def _cone(rng: PortableRng, size: float) -> Posed:
    radius, half_height = size * rng.uniform(0.34, 0.44), size * rng.uniform(0.42, 0.5)
    on_its_side = LYING + math.atan2(radius, 2 * half_height)
    return Cone(radius, half_height), on_its_side if rng.bernoulli(0.3) else UPRIGHT


def _pyramid(rng: PortableRng, size: float) -> Posed:
    half_base, half_height = size * rng.uniform(0.36, 0.44), size * rng.uniform(0.34, 0.46)
    on_its_side = LYING + math.atan2(half_base, 2 * half_height)
    return Pyramid(half_base, half_height), on_its_side if rng.bernoulli(0.25) else UPRIGHT


def _ring(rng: PortableRng, size: float) -> Posed:
    shape = Cylinder(size / 2, size * rng.uniform(0.08, 0.15), bore=size * rng.uniform(0.26, 0.34))
    return shape, rng.choice((UPRIGHT, LYING))


def _star(rng: PortableRng, size: float) -> Posed:
    return Star(size * 0.55, size * rng.uniform(0.08, 0.14)), LYING if rng.bernoulli(0.75) else UPRIGHT


def _chair(rng: PortableRng, size: float) -> Posed:
    wide, deep, high = size * rng.uniform(0.26, 0.34), size * rng.uniform(0.26, 0.34), size * 0.5
    seat, thin = size * rng.uniform(-0.1, 0.04), size * 0.1
    low = [(-wide, seat - thin, -deep), (-wide, seat, deep - thin)]
    top = [(wide, seat, deep), (wide, high, deep)]
    for x in (-wide, wide - thin):
        for z in (-deep, deep - thin):
            low.append((x, -high, z))
            top.append((x + thin, seat - thin, z + thin))
    return BoxUnion(low, top), LYING if rng.bernoulli(0.15) else UPRIGHT


THINGS: dict[str, Callable[[PortableRng, float], Posed]] = {
    "ball": _ball,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "pyramid": _pyramid,
    "ring": _ring,
    "star": _star,
    "chair": _chair,
}
FACING = ("ring", "star")  # classes that roughly face the camera when tilted: edge-on they are ambiguous

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


def draw_coat(rng: PortableRng, size: float) -> Coat:
    """Draws a random coat. size: the thing's size in metres; the number of stripes does not depend on it."""
    color = rng.choice(tuple(COLORS))
    return Coat(
        color=color,
        paints=_paints(rng, color),
        texture=rng.choice(SOLIDS),
        stripes_across=rng.integer(3),
        texels=32 / (size * rng.uniform(0.8, 1.6)),
        phase=(64 + 32 * rng.random(), 64 + 32 * rng.random(), 64 + 32 * rng.random()),
        gloss=max(0.0, rng.uniform(-0.3, 0.6)),
    )


def _paints(rng: PortableRng, color: str) -> tuple[Vector, Vector]:
    """Returns a shade of the colour, and a second paint: another colour, or a darker or lighter shade."""
    first = _shade_of(rng, color)
    r, g, b = first
    if rng.bernoulli(0.4):
        return first, _shade_of(rng, rng.choice(tuple(COLORS)))
    if rng.bernoulli(0.5):
        return first, (r * 0.5, g * 0.5, b * 0.5)
    return first, (0.4 + r * 0.6, 0.4 + g * 0.6, 0.4 + b * 0.6)


def _shade_of(rng: PortableRng, color: str) -> Vector:
    gain = rng.uniform(0.85, 1.15)
    r, g, b = (min(max(c / 255 * gain + rng.uniform(-0.05, 0.05), 0.0), 1.0) for c in COLORS[color])
    return r, g, b
