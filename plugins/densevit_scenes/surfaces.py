"""The background: floor and walls, or ground and sky, with the shadows of things."""

import math
from functools import cache

import numpy as np

from densevit_scenes.portable_rng import PortableRng
from densevit_scenes.scene import Camera, Scene, Surface, Thing
from densevit_scenes.textures import LEVELS, sample

FLOOR, WALL, SIDE_WALL, SKY = range(4)  # values of a surface map
FAR = 60.0  # metres; depth is unknown beyond

_SHIFT = 2**16  # texels; keeps coordinates positive; a multiple of the tile


class View:
    """The pixels of a camera. columns (W,), rows (H,): x and y at depth 1 of the rays through their centres.

    The world direction of a ray per metre of depth is (column, -fall, ahead); fall and ahead: (H,).
    """

    def __init__(self, camera: Camera, height: int, width: int) -> None:
        self.camera, self.height, self.width = camera, height, width
        self.focal = camera.focal * max(height, width)  # pixels
        self.columns = ((np.arange(width) + (0.5 - width / 2)) / self.focal).astype(np.float32)
        self.rows = ((np.arange(height) + (0.5 - height / 2)) / self.focal).astype(np.float32)
        _, (_, up, ahead), (_, sinking, forward) = camera.axes
        self.fall = self.rows * np.float32(-up) + np.float32(-sinking)
        self.ahead = self.rows * np.float32(ahead) + np.float32(forward)
        floor = np.float32(camera.height) / self.fall
        self.floor_depth = np.where(self.fall > 0, floor, np.float32(np.inf))  # (H,)


def paint(scene: Scene, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paints the background, with the shadows of things but without the things.

    Returns the image (3, H, W) float32 in 0 ... 255, the surfaces (H, W) uint8 and the depth (H, W) float32.
    """
    image = np.empty((3, view.height, view.width), np.float32)
    if scene.walls:
        surface, depth = _walls(scene, view, image)
        floor_rows = np.flatnonzero((surface == FLOOR).any(axis=1))
        first = int(floor_rows[0]) if len(floor_rows) else view.height
    else:
        first = int(np.count_nonzero(view.floor_depth > FAR))
        surface = np.zeros((view.height, view.width), np.uint8)
        surface[:first] = SKY
        by_row = np.where(view.floor_depth > FAR, np.float32(0), view.floor_depth)
        depth = np.repeat(by_row[:, None], view.width, axis=1)
        _paint_sky(scene, view, image[:, :first])
    if first < view.height:
        colors = _floor(scene, view, first)
        if scene.walls:
            np.copyto(image[:, first:], colors, where=surface[first:] == FLOOR)
        else:
            image[:, first:] = colors
    return image, surface, depth


def _color(color: tuple[float, float, float]) -> np.ndarray:
    return np.array(color, np.float32)[:, None, None] * 255


def _look(surface: Surface, u: np.ndarray, v: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """Samples a surface at (u, v), in texels: (3, H, W), 0 ... 255. pixel: texels per pixel, which selects the mipmap
    level."""
    level = np.clip(np.frexp(pixel)[1], 0, LEVELS - 1)
    values = sample(surface.tile, u.astype(np.int32), v.astype(np.int32), level)
    low, high = (_color(paint) for paint in surface.paints)
    return low + (high - low) * values


def _floor(scene: Scene, view: View, first: int) -> np.ndarray:
    """Computes the colours of the floor or the ground from row `first` down: (3, H - first, W)."""
    look, (cos, sin) = scene.floor, scene.floor.turn
    depth = view.floor_depth[first:, None]  # (H, 1)
    x, z = view.columns * np.float32(look.texels), view.ahead[first:, None] * depth * np.float32(look.texels)
    u = (depth * np.float32(cos)) * x + (z * np.float32(sin) + np.float32(look.phase[0] + _SHIFT))
    v = (depth * np.float32(-sin)) * x + (z * np.float32(cos) + np.float32(look.phase[1] + _SHIFT))
    colors = _look(look, u, v, depth * np.float32(look.texels / view.focal))
    light = np.full(u.shape, scene.ambient + scene.diffuse * scene.light[1], np.float32)
    for thing in scene.things:
        _shadow(scene, thing, view, light, first)
    colors *= light
    if not scene.walls:
        haze = depth * np.float32(1 / FAR)
        colors += (haze * haze) * (_horizon(scene) - colors)
    return colors


def _shadow(scene: Scene, thing: Thing, view: View, light: np.ndarray, first: int) -> None:
    """Darkens the floor, from row `first` down, in the shadow of a thing: a soft ellipse away from the light."""
    lx, ly, lz = scene.light
    level = math.sqrt(lx * lx + lz * lz)
    lx, lz = lx / level, lz / level
    thrown = min(2 * thing.centre[1] * level / ly, 3 * thing.size)
    length = thing.reach((lx, 0.0, lz)) * 0.95 + thrown * 0.4
    breadth = thing.reach((-lz, 0.0, lx)) * 0.95
    x, z = thing.centre[0] - lx * thrown * 0.4, thing.centre[2] - lz * thrown * 0.4
    radius = max(length, breadth) * 1.1
    near, far = view.camera.see((x, 0.0, z - radius)), view.camera.see((x, 0.0, z + radius))
    closest = max(near[2], 0.2)
    top = int(view.height / 2 + view.focal * far[1] / far[2]) - first
    bottom = int(view.height / 2 + view.focal * near[1] / closest) + 1 - first
    left = int(view.width / 2 + view.focal * (x - radius) / (closest if x < radius else far[2]))
    right = int(view.width / 2 + view.focal * (x + radius) / (closest if x > -radius else far[2])) + 1
    rows, columns = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
    part = light[rows, columns]
    if not part.size:
        return
    depth = view.floor_depth[first:][rows, None]
    dx = depth * view.columns[columns] - np.float32(x)
    dz = depth * view.ahead[first:][rows, None] - np.float32(z)
    along = dx * np.float32(lx / length) + dz * np.float32(lz / length)
    across = dx * np.float32(lz / breadth) - dz * np.float32(lx / breadth)
    shade = np.float32(1.2) - (along * along + across * across)
    shade = np.minimum(np.maximum(shade, 0) * 2, 1)
    part -= shade * np.maximum(part - np.float32(scene.ambient * 0.75), 0)


def _walls(scene: Scene, view: View, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paints the walls. Returns the surfaces and the depth of the empty room."""
    distances = []
    for wall in scene.walls:
        x, z = np.float32(wall.normal[0]), np.float32(wall.normal[1])
        towards = x * view.columns + (z * view.ahead)[:, None]
        distances.append(np.float32(wall.distance) / np.maximum(towards, np.float32(1e-3)))
    back, side = distances
    depth, ground = np.minimum(back, side), view.floor_depth[:, None]
    surface = np.where(back <= side, np.uint8(WALL), np.uint8(SIDE_WALL))
    surface[depth >= ground] = FLOOR
    rows = int(np.count_nonzero((surface != FLOOR).any(axis=1)))
    if rows:
        _paint_walls(scene, view, image[:, :rows], depth[:rows], surface[:rows])
    depth = np.minimum(depth, ground)
    depth[depth > FAR] = 0
    return surface, depth


def _paint_walls(scene: Scene, view: View, image: np.ndarray, depth: np.ndarray, surface: np.ndarray) -> None:
    """Paints the upper rows, which show walls."""
    look, texels, rows = scene.backdrop, np.float32(scene.backdrop.texels), len(depth)
    x, z = depth * view.columns, depth * view.ahead[:rows, None]
    y = np.float32(scene.camera.height) - depth * view.fall[:rows, None]
    at_side = surface == SIDE_WALL
    back, side = (x * np.float32(-wall.normal[1]) + z * np.float32(wall.normal[0]) for wall in scene.walls)
    u = np.where(at_side, side, back) * texels + np.float32(look.phase[0] + _SHIFT)
    v = y * texels + np.float32(look.phase[1] + _SHIFT)
    colors = _look(look, u, v, depth[:, view.width // 2, None] * (texels / np.float32(view.focal)))
    lx, _, lz = scene.light
    lit = [0.35 + 0.65 * max(0.0, -(wall.normal[0] * lx + wall.normal[1] * lz)) for wall in scene.walls]
    back_light, side_light = (np.float32(scene.ambient + scene.diffuse * part) for part in lit)
    light = np.where(at_side, side_light, back_light)
    light *= np.minimum(y * np.float32(0.5) + np.float32(0.75), 1)  # darker near the floor
    light[y < 0.09] *= np.float32(0.55)  # the skirting board
    np.multiply(colors, light, out=image)


def _horizon(scene: Scene) -> np.ndarray:
    r, g, b = scene.backdrop.paints[1]
    return _color((0.72 + 0.2 * r, 0.72 + 0.2 * g, 0.72 + 0.2 * b))


def _paint_sky(scene: Scene, view: View, image: np.ndarray) -> None:
    """Paints rows as sky: lighter towards the horizon, with clouds."""
    rows = image.shape[1]
    u = (np.arange(view.width) * (256 / view.width) + scene.backdrop.phase[0]).astype(np.int32)
    v = (np.arange(rows) * (640 / view.width) + scene.backdrop.phase[1]).astype(np.int32)
    clouds = sample("rough", u, v[:, None], np.zeros(1, np.int32))
    clouds = np.clip(clouds * 3 - np.float32(1.3), 0, 1)
    height = np.minimum(np.arange(rows, 0, -1, dtype=np.float32) * np.float32(1.6 / view.focal), 1)[:, None]
    blue = _horizon(scene) * (1 - height) + _color((0.27, 0.51, 0.84)) * height
    image[:] = blue + (np.float32(244) - blue) * (clouds * np.float32(0.8))


@cache
def _noise() -> np.ndarray:
    """Returns (2^17,) float32 sensor noise, the same for all channels."""
    first, second = PortableRng(31).random_array(1 << 17), PortableRng(32).random_array(1 << 17)
    return ((first - second) * 6).astype(np.float32)


def expose(image: np.ndarray, grain: int) -> np.ndarray:
    """Adds sensor noise to an image (3, H, W) in 0 ... 255, and rounds it to uint8."""
    noise, pixels = _noise(), image.shape[1] * image.shape[2]
    start = grain % (len(noise) - 1)
    repeated = np.resize(noise[start:], pixels) if pixels > len(noise) - start else noise[start : start + pixels]
    image = image + repeated.reshape(1, *image.shape[1:])
    return np.minimum(np.maximum(image, 0), 255).astype(np.uint8)
