"""Solid shapes: their first intersection with rays, and the surface normals there.

A shape is centred in its frame, y up, in metres. `trace` uses only + - * / and sqrt, which IEEE 754 defines to the last
bit, so masks and depth do not depend on the machine. All distances are depths along the optical axis, as each ray's
component along it is 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Vector = tuple[float, float, float]

AXES: tuple[Vector, ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def dot(a: Vector, b: Vector) -> float:
    """Returns the dot product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@dataclass(frozen=True)
class Rays:
    """The rays through a rectangle of pixels, from `origin`, in a shape's frame.

    A ray's direction is right * x + down * y + forward, with x of `columns` (W,) and y of `rows` (H,).
    """

    origin: Vector
    right: Vector
    down: Vector
    forward: Vector
    columns: np.ndarray
    rows: np.ndarray

    def along(self, directions: Sequence[Vector]) -> np.ndarray:
        """Returns the components of the rays along D directions: (D, H, W) float32."""
        across = np.array([dot(self.right, d) for d in directions], np.float32)
        below = np.array([dot(self.down, d) for d in directions], np.float32)
        ahead = np.array([dot(self.forward, d) for d in directions], np.float32)
        by_row = below[:, None] * self.rows + ahead[:, None]
        return (across[:, None] * self.columns)[:, None, :] + by_row[:, :, None]

    def squared(self) -> np.ndarray:
        """Returns the squared lengths of the ray directions: (H, W)."""
        return self.columns * self.columns + (self.rows * self.rows + np.float32(1))[:, None]


@dataclass(frozen=True)
class Hits:
    """Intersections of rays. depth: (H, W), inf or NaN for no hit.

    surfaces: F depth maps (H, W); a ray hit the surface whose map equals `depth`. curved, flat: (3, F); the normal of
    surface f at the point p has the direction curved[:, f] * p + flat[:, f].
    """

    depth: np.ndarray
    surfaces: Iterable[np.ndarray]
    curved: np.ndarray
    flat: np.ndarray


def _table(*columns: Vector) -> np.ndarray:
    return np.array(columns, np.float32).T


class Shape:
    """A solid. `rims` (height, radius) and `corners` span its convex hull."""

    rims: Sequence[tuple[float, float]] = ()
    corners: Sequence[Vector] = ()

    def reach(self, direction: Vector) -> float:
        """Returns the extent of the shape from its centre in a unit direction, in metres."""
        x, y, z = direction
        level = math.sqrt(x * x + z * z)
        rims = [y * height + level * radius for height, radius in self.rims]
        return max(rims + [x * a + y * b + z * c for a, b, c in self.corners])

    def trace(self, rays: Rays) -> Hits:
        """Returns the first intersections with rays whose origin is outside the solid."""
        raise NotImplementedError


class Ball(Shape):
    """A sphere."""

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def reach(self, direction: Vector) -> float:
        return self.radius

    def trace(self, rays: Rays) -> Hits:
        a = rays.squared()
        b = rays.along([rays.origin])[0]
        depth = (-b - np.sqrt(b * b - a * (dot(rays.origin, rays.origin) - self.radius * self.radius))) / a
        return Hits(depth, [depth], _table((1, 1, 1)), _table((0, 0, 0)))


class BoxUnion(Shape):
    """A union of K axis-aligned boxes. low, high: (K, 3), their corners."""

    def __init__(self, low: Sequence[Vector], high: Sequence[Vector]) -> None:
        self.low, self.high = np.array(low), np.array(high)
        self.corners = [
            (x, y, z)
            for (a, b, c), (d, e, f) in zip(low, high, strict=True)
            for x in (a, d) for y in (b, e) for z in (c, f)
        ]  # fmt: skip

    def trace(self, rays: Rays) -> Hits:
        origin = np.array(rays.origin)
        inverse = np.float32(1) / rays.along(AXES)  # (3, H, W)
        low = (self.low - origin).astype(np.float32)[:, :, None, None] * inverse
        high = (self.high - origin).astype(np.float32)[:, :, None, None] * inverse
        enter = np.minimum(low, high)  # (K, 3, H, W)
        leave = np.maximum(low, high, out=high).min(axis=1)
        entry = enter.max(axis=1)
        entry[entry >= leave] = np.inf
        depth = entry.min(axis=0) if len(entry) > 1 else entry[0]
        # Rays enter a slab on the side of the origin.
        sides = np.sign(origin - (self.low + self.high) / 2)  # (K, 3)
        flat = (np.eye(3)[:, None, :] * sides[None]).reshape(3, -1).astype(np.float32)
        return Hits(depth, enter.reshape(-1, *depth.shape), np.zeros_like(flat), flat)


def _roots(a: np.ndarray, b: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the roots of a t^2 + 2 b t + c, NaN if there are none; in ascending order if a > 0."""
    root = np.sqrt(b * b - a * c)
    inverse = np.float32(1) / a
    return (-b - root) * inverse, (root - b) * inverse


def _slab(upward: np.ndarray, start: float, half: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the depths at which rays enter and leave the layer between -half and half."""
    inverse = np.float32(1) / upward
    lower, upper = (-half - start) * inverse, (half - start) * inverse
    return np.minimum(lower, upper), np.maximum(lower, upper)


class Cylinder(Shape):
    """An upright cylinder; a ring with an inner radius `bore` > 0."""

    def __init__(self, radius: float, half_height: float, bore: float = 0.0) -> None:
        self.radius, self.half_height, self.bore = radius, half_height, bore
        self.rims = [(-half_height, radius), (half_height, radius)]

    def trace(self, rays: Rays) -> Hits:
        x, y, z = rays.origin
        dx, dy, dz, b = rays.along([*AXES, (x, 0.0, z)])
        a = dx * dx + dz * dz
        near, far = _roots(a, b, x * x + z * z - self.radius * self.radius)
        top, bottom = _slab(dy, y, self.half_height)
        depth, leave = np.maximum(near, top), np.minimum(far, bottom)
        up = math.copysign(1.0, y)
        if not self.bore:
            depth[~(depth < leave)] = np.inf
            return Hits(depth, (near, top), _table((1, 0, 1), (0, 0, 0)), _table((0, 0, 0), (0, up, 0)))
        into, out_of = _roots(a, b, x * x + z * z - self.bore * self.bore)
        through = (depth > into) & (depth < out_of)
        np.copyto(depth, out_of, where=through)
        depth[~(depth < leave)] = np.inf
        curved = _table((1, 0, 1), (0, 0, 0), (-1, 0, -1))
        return Hits(depth, (near, top, out_of), curved, _table((0, 0, 0), (0, up, 0), (0, 0, 0)))


class Cone(Shape):
    """An upright cone."""

    def __init__(self, radius: float, half_height: float) -> None:
        self.radius, self.half_height = radius, half_height
        self.rims = [(-half_height, radius)]
        self.corners = [(0.0, half_height, 0.0)]

    def trace(self, rays: Rays) -> Hits:
        height = 2 * self.half_height
        slope = self.radius * self.radius / (height * height)
        x, y, z = rays.origin
        y -= self.half_height  # from the apex down
        dx, dy, dz, b = rays.along([*AXES, (x, -slope * y, z)])
        near, far = _roots(dx * dx + dz * dz - slope * dy * dy, b, x * x + z * z - slope * y * y)
        for side in (near, far):
            level = y + side * dy
            side[~((level <= 0) & (level >= -height))] = np.inf
        base = (-height - y) / dy
        base_x, base_z = x + base * dx, z + base * dz
        base[~(base_x * base_x + base_z * base_z < self.radius * self.radius)] = np.inf
        side = np.minimum(near, far)
        curved, flat = _table((1, -slope, 1), (0, 0, 0)), _table((0, slope * self.half_height, 0), (0, -1, 0))
        return Hits(np.minimum(side, base), (side, base), curved, flat)


def _crossings(rays: Rays, normals: Sequence[Vector], offsets: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the depths at which rays enter and leave half-spaces n . p <= offset, (F, H, W) each; -inf and inf
    otherwise."""
    towards = rays.along(normals)
    gaps = np.array([d - dot(n, rays.origin) for n, d in zip(normals, offsets, strict=True)], np.float32)
    depth = gaps[:, None, None] / towards
    inwards = towards < 0
    return np.where(inwards, depth, np.float32(-np.inf)), np.where(inwards, np.float32(np.inf), depth)


class Pyramid(Shape):
    """A pyramid on a square base."""

    def __init__(self, half_base: float, half_height: float) -> None:
        b, h = half_base, half_height
        self.corners = [(-b, -h, -b), (b, -h, -b), (b, -h, b), (-b, -h, b), (0.0, h, 0.0)]
        length = math.sqrt(4 * h * h + b * b)
        out, up = 2 * h / length, b / length
        self.normals = [(out, up, 0.0), (-out, up, 0.0), (0.0, up, out), (0.0, up, -out), (0.0, -1.0, 0.0)]
        self.offsets = [up * h] * 4 + [h]

    def trace(self, rays: Rays) -> Hits:
        enter, leave = _crossings(rays, self.normals, self.offsets)
        depth = enter.max(axis=0)
        depth[depth >= leave.min(axis=0)] = np.inf
        return Hits(depth, enter, np.zeros((3, 5), np.float32), _table(*self.normals))


class Star(Shape):
    """A horizontal, extruded five-pointed star (filled pentagram).

    A point is inside if it is on the inner side of at least four of the five edge lines.
    """

    def __init__(self, radius: float, half_height: float) -> None:
        self.half_height = half_height
        turns = [math.pi * (1.5 + 0.4 * i) for i in range(5)]
        self.normals = [(round(math.cos(a), 6), 0.0, round(math.sin(a), 6)) for a in turns]
        self.corners = [(radius * x, y, radius * z) for x, _, z in self.normals for y in (-half_height, half_height)]
        self.offsets = [radius * 0.309017] * 5

    def trace(self, rays: Rays) -> Hits:
        enter, leave = _crossings(rays, self.normals, self.offsets)
        last, before_last = _two_largest(enter)
        first, after_first = _two_largest(-leave)
        first, after_first = -first, -after_first
        top, bottom = _slab(rays.along(AXES[1:2])[0], rays.origin[1], self.half_height)
        depth = np.maximum(before_last, top)
        missed = ~(depth < np.minimum(first, bottom))
        later = np.maximum(last, top)
        later[~(later < np.minimum(after_first, bottom))] = np.inf
        np.copyto(depth, later, where=missed)
        up = math.copysign(1.0, rays.origin[1])
        return Hits(depth, (top, *enter), np.zeros((3, 6), np.float32), _table((0, up, 0), *self.normals))


def _two_largest(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest and the second largest value of each pixel."""
    largest, second = np.maximum(maps[0], maps[1]), np.minimum(maps[0], maps[1])
    for pixels in maps[2:]:
        second = np.maximum(second, np.minimum(largest, pixels))
        largest = np.maximum(largest, pixels)
    return largest, second
