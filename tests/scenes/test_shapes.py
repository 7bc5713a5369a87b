"""The shapes of the built-in scenes, against independent definitions of inside and outside."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from densevit_scenes.shapes import Ball, Boxes, Cone, Cylinder, Pyramid, Rays, Shape, Star

Inside = Callable[[np.ndarray], np.ndarray]  # points (..., 3) -> bool (...)


def _ball(p: np.ndarray) -> np.ndarray:
    return np.linalg.norm(p, axis=-1) < 0.5


def _cylinder(p: np.ndarray) -> np.ndarray:
    return (np.hypot(p[..., 0], p[..., 2]) < 0.3) & (np.abs(p[..., 1]) < 0.45)


def _ring(p: np.ndarray) -> np.ndarray:
    from_axis = np.hypot(p[..., 0], p[..., 2])
    return (from_axis < 0.5) & (from_axis > 0.3) & (np.abs(p[..., 1]) < 0.12)


def _cone(p: np.ndarray) -> np.ndarray:
    part = (0.45 - p[..., 1]) / 0.9  # 0 at the apex, 1 at the base
    return (part > 0) & (part < 1) & (np.hypot(p[..., 0], p[..., 2]) < 0.4 * part)


def _pyramid(p: np.ndarray) -> np.ndarray:
    part = (0.4 - p[..., 1]) / 0.8
    return (part > 0) & (part < 1) & (np.abs(p[..., 0]) < 0.42 * part) & (np.abs(p[..., 2]) < 0.42 * part)


def _stool(p: np.ndarray) -> np.ndarray:
    top = (np.abs(p[..., [0, 2]]) < 0.3).all(axis=-1) & (np.abs(p[..., 1] - 0.2) < 0.1)
    leg = (np.abs(p[..., [0, 2]]) < 0.1).all(axis=-1) & (p[..., 1] > -0.4) & (p[..., 1] < 0.15)
    return top | leg


def _star(p: np.ndarray) -> np.ndarray:
    """By crossing numbers: a ray from a point inside crosses the ten-cornered outline an odd number of times."""
    angles = 1.5 * math.pi + math.pi / 5 * np.arange(11)
    radii = 0.55 * np.where(np.arange(11) % 2, (3 - math.sqrt(5)) / 2, 1.0)
    corners = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    crossings = np.zeros(p.shape[:-1], int)
    for (ax, az), (bx, bz) in itertools.pairwise(corners):
        between = (az > p[..., 2]) != (bz > p[..., 2])
        at = ax + (p[..., 2] - az) / (bz - az) * (bx - ax)
        crossings += between & (at > p[..., 0])
    return (crossings % 2 == 1) & (np.abs(p[..., 1]) < 0.12)


SOLIDS: dict[str, tuple[Shape, Inside]] = {
    "ball": (Ball(0.5), _ball),
    "cylinder": (Cylinder(0.3, 0.45), _cylinder),
    "ring": (Cylinder(0.5, 0.12, bore=0.3), _ring),
    "cone": (Cone(0.4, 0.45), _cone),
    "pyramid": (Pyramid(0.42, 0.4), _pyramid),
    "star": (Star(0.55, 0.12), _star),
    "stool": (Boxes([(-0.3, 0.1, -0.3), (-0.1, -0.4, -0.1)], [(0.3, 0.3, 0.3), (0.1, 0.15, 0.1)]), _stool),
}
STEP, NEAR, FAR = 0.004, 2.0, 4.0


def _views(count: int = 6, side: int = 28) -> list[Rays]:
    """Rays from random positions 3 m away towards the centre."""
    rng = np.random.default_rng(0)
    grid = np.linspace(-0.3, 0.3, side).astype(np.float32)
    views = []
    for _ in range(count):
        basis, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        right, down, forward = (tuple(axis.tolist()) for axis in basis)
        views.append(Rays(tuple((-3 * basis[2]).tolist()), right, down, forward, grid, grid + np.float32(0.001)))
    return views


def _directions(rays: Rays) -> np.ndarray:
    """(H, W, 3)."""
    x, y = np.meshgrid(rays.columns.astype(float), rays.rows.astype(float))
    return x[..., None] * np.array(rays.right) + y[..., None] * np.array(rays.down) + np.array(rays.forward)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # rays that miss divide by zero; the renderer also silences it
@pytest.mark.parametrize("name", SOLIDS)
def test_ray_hits_are_the_first_points_inside(name):
    shape, inside = SOLIDS[name]
    steps = np.arange(NEAR, FAR, STEP)
    met = 0
    for rays in _views():
        depth = shape.trace(rays).depth
        points = np.array(rays.origin) + _directions(rays)[:, :, None] * steps[:, None]
        within = inside(points)
        first = steps[within.argmax(axis=-1)]
        hit, expected = depth < np.inf, within.any(axis=-1)
        assert (hit == expected).mean() > 0.995  # a ray that grazes an edge passes between two steps
        both = hit & expected
        late = first[both] - depth[both]
        assert np.mean((late > -1e-5) & (late < STEP + 1e-5)) > 0.99
        met += int(both.sum())
    assert met > 400
