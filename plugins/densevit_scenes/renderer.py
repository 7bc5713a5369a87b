"""Renders a scene to an image and exact labels."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from densevit_scenes import surfaces
from densevit_scenes.scene import Scene, Thing
from densevit_scenes.shapes import Hits, Rays, Vector, dot
from densevit_scenes.surfaces import View
from densevit_scenes.textures import look_up, solid


@dataclass(frozen=True)
class Rendering:
    """A rendered scene of T things.

    image: (3, H, W) uint8. owner: (H, W) uint8, 1 + the index of the visible thing, or 0 for the background.
    surface: (H, W) uint8, the background surface, also behind things.
    depth: (H, W) float32 in metres along the optical axis, 0 = unknown (sky, or too far).
    silhouettes: (T,) the number of pixels of each thing inside the image without occlusion.
    """

    image: np.ndarray
    owner: np.ndarray
    surface: np.ndarray
    depth: np.ndarray
    silhouettes: np.ndarray


def render(scene: Scene, height: int, width: int) -> Rendering:
    """Renders a scene with one ray through the centre of each pixel; labels describe the first hit."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        view = View(scene.camera, height, width)
        image, surface, background = surfaces.paint(scene, view)
        canvas = _Canvas(scene, view, image)
        silhouettes = np.zeros(len(scene.things), np.int64)
        for number in _nearest_first(scene):
            silhouettes[number] = canvas.add(scene.things[number], 16 * (number + 1))
        empty = canvas.pieces == 0
        np.copyto(canvas.depth, background, where=empty)
        np.copyto(canvas.pieces, surface, where=empty)
        _soften(image, canvas.pieces)
        return Rendering(surfaces.expose(image, scene.grain), canvas.pieces >> 4, surface, canvas.depth, silhouettes)


def _nearest_first(scene: Scene) -> list[int]:
    """Returns the order of painting, near things first. It only saves time: depth determines occlusion."""
    return sorted(range(len(scene.things)), key=lambda number: scene.camera.see(scene.things[number].centre)[2])


class _Canvas:
    """The image buffers. pieces: (H, W) uint8, 16 * (1 + thing) + index of the thing's surface, or 0 for no thing."""

    def __init__(self, scene: Scene, view: View, image: np.ndarray) -> None:
        self.scene, self.view, self.image = scene, view, image
        self.depth = np.full((view.height, view.width), np.inf, np.float32)
        self.pieces = np.zeros((view.height, view.width), np.uint8)

    def add(self, thing: Thing, piece: int) -> int:
        """Paints a thing where it is nearer than all earlier things. Returns the number of pixels of its silhouette."""
        top, bottom, left, right = _extent(thing, self.view)
        if top >= bottom or left >= right:
            return 0
        rays = _rays(thing, self.view, slice(top, bottom), slice(left, right))
        hits = thing.shape.trace(rays)
        seen = np.flatnonzero(hits.depth < self.depth[top:bottom, left:right])
        if len(seen):
            rows, columns = np.divmod(seen, right - left)
            distance = hits.depth.take(seen)
            faces = _faces(hits.surfaces, distance, seen)
            colors = _shade(self.scene, thing, _Points(rays, hits, distance, faces, rows, columns))
            places = (rows + top) * self.view.width + (columns + left)
            for channel in range(3):
                self.image[channel].put(places, colors[channel])
            self.depth.put(places, distance)
            self.pieces.put(places, (faces & 15) + piece)
        return int(np.count_nonzero(hits.depth < np.inf))


def _extent(thing: Thing, view: View) -> tuple[int, int, int, int]:
    """Returns top, bottom, left and right (exclusive ends) of the pixels that may show a thing."""
    right, down, forward = view.camera.axes
    x, y, z = view.camera.see(thing.centre)
    nearest, farthest = max(z - thing.reach(_opposite(forward)), 0.1), z + thing.reach(forward)
    ends = []
    for at, axis, side in ((y, down, view.height), (x, right, view.width)):
        low, high = at - thing.reach(_opposite(axis)), at + thing.reach(axis)
        first = side / 2 + view.focal * low / (nearest if low < 0 else farthest)
        last = side / 2 + view.focal * high / (nearest if high > 0 else farthest)
        ends += [max(0, math.floor(first) - 1), min(side, math.ceil(last) + 1)]
    return ends[0], ends[1], ends[2], ends[3]


def _opposite(direction: Vector) -> Vector:
    return -direction[0], -direction[1], -direction[2]


def _rays(thing: Thing, view: View, rows: slice, columns: slice) -> Rays:
    """Returns the rays through a rectangle of pixels, in the thing's frame."""
    x, y, z = thing.axes
    eye = (-thing.centre[0], view.camera.height - thing.centre[1], -thing.centre[2])
    origin = (dot(x, eye), dot(y, eye), dot(z, eye))
    right, down, forward = ((dot(x, axis), dot(y, axis), dot(z, axis)) for axis in view.camera.axes)
    return Rays(origin, right, down, forward, view.columns[columns], view.rows[rows])


def _faces(surfaces: Iterable[np.ndarray], distance: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Returns (N,) uint8, the index of the surface that each ray hit."""
    faces = np.zeros(len(seen), np.uint8)
    for number, surface in enumerate(surfaces):
        if number:
            faces[surface.take(seen) == distance] = number
    return faces


def _column(values: Vector) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def _length(vectors: np.ndarray) -> np.ndarray:
    """(3, N) -> (N,)."""
    return np.sqrt(_along(vectors, vectors))


def _along(vectors: np.ndarray, direction: np.ndarray | Vector) -> np.ndarray:
    """Computes dot products (N,) in a fixed order of summation: BLAS and einsum round differently between machines."""
    return vectors[0] * direction[0] + vectors[1] * direction[1] + vectors[2] * direction[2]


class _Points:
    """The N visible points of a thing, in its frame. sight (ray directions), at (positions), normals: (3, N)
    float32."""

    def __init__(
        self, rays: Rays, hits: Hits, distance: np.ndarray, faces: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> None:
        by_row = _column(rays.down) * rays.rows.take(rows) + _column(rays.forward)
        self.sight = _column(rays.right) * rays.columns.take(columns) + by_row
        self.at = _column(rays.origin) + self.sight * distance
        normals = hits.curved.take(faces, axis=1) * self.at + hits.flat.take(faces, axis=1)
        self.normals = normals / _length(normals)


def _shade(scene: Scene, thing: Thing, points: _Points) -> np.ndarray:
    """Computes the colours of the points, (3, N), 0 ... 255, with specular highlights."""
    x, y, z = thing.axes
    coat = thing.coat
    light = (dot(x, scene.light), dot(y, scene.light), dot(z, scene.light))
    up = (x[1], y[1], z[1])
    height = _along(points.at, up) + thing.centre[1]
    open_sky = (0.8 + 0.2 * _along(points.normals, up)) * np.minimum(0.6 + height * (1.2 / thing.size), 1)
    bright = scene.ambient * open_sky + scene.diffuse * np.maximum(_along(points.normals, light), 0)
    low, high = (255 * _column(paint) for paint in coat.paints)
    if coat.texture != "plain":
        texels = points.at * coat.texels + _column(coat.phase)
        low = low + (high - low) * look_up(solid(coat.texture, coat.stripes_across), texels)
    colors = low * bright
    if coat.gloss:  # Blinn's highlight, to the 16th power
        half = _column(light) - points.sight / _length(points.sight)
        shine = np.maximum(_along(half, points.normals), 0) / _length(half)
        for _ in range(4):
            shine *= shine
        colors += (255 * coat.gloss) * shine
    return colors


def _soften(image: np.ndarray, pieces: np.ndarray) -> None:
    """Antialiasing: blends pixels at the edges of surfaces with their neighbours."""
    edge = np.zeros(pieces.shape, bool)
    inner, within = pieces[1:-1, 1:-1], edge[1:-1, 1:-1]
    for neighbour in (pieces[1:-1, 2:], pieces[1:-1, :-2], pieces[2:, 1:-1], pieces[:-2, 1:-1]):
        within |= inner != neighbour
    at = np.flatnonzero(edge)
    row = pieces.shape[1]
    blended = []
    for channel in image:
        beside, below = channel.take(at - 1) + channel.take(at + 1), channel.take(at - row) + channel.take(at + row)
        blended.append((channel.take(at) * 2 + beside + below) * np.float32(1 / 6))
    for channel, values in zip(image, blended, strict=True):
        channel.put(at, values)
