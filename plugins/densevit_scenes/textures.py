"""Textures: solid (three-dimensional) textures for things of any shape, tiles for floors and walls.

Values in 0 ... 1 blend two colours. Textures are periodic, and computed once per process from fixed random numbers.
"""

from functools import cache

import numpy as np

from densevit_scenes.portable_rng import PortableRng

SOLIDS = ("plain", "stripes", "checker", "dots", "noise")
PERIOD = 32  # of a solid texture, in texels
TILE = 256  # side of a tile in texels
LEVELS = 7  # mipmap levels of a tile


def noise(shape: tuple[int, ...], cell: int, name: int) -> np.ndarray:
    """Returns smooth periodic noise in 0 ... 1, with features of about `cell` texels. name: seed."""
    values = PortableRng(name).random_array(int(np.prod(shape))).reshape(shape)
    for axis in range(len(shape)):
        for _ in range(2):  # a box filter twice is a tent
            values = sum((np.roll(values, i, axis) for i in range(1, cell)), start=values)
    values = values - values.min()
    return values / values.max()


def _smooth(values: np.ndarray) -> np.ndarray:
    """Smooths a periodic texture, which reduces aliasing when it is sampled."""
    for axis in range(values.ndim):
        values = values * 0.5 + (np.roll(values, 1, axis) + np.roll(values, -1, axis)) * 0.25
    return values


@cache
def solid(name: str, axis: int = 0) -> np.ndarray:
    """Returns (PERIOD^3,) float32, with the texel (i, j, k) at (i * PERIOD + j) * PERIOD + k. Stripes run across
    `axis`."""
    i = np.arange(PERIOD)
    x, y, z = np.meshgrid(i, i, i, indexing="ij")
    if name == "stripes":
        values = np.where((x, y, z)[axis] % 8 < 4, 1.0, 0.0)
    elif name == "checker":
        values = np.where((x // 8 + y // 8 + z // 8) % 2, 1.0, 0.0)
    elif name == "dots":
        values = np.zeros((PERIOD,) * 3)
        for shift in (0, 8):  # the corners and the centres of cells of 16
            a, b, c = ((v + shift) % 16 - 7.5 for v in (x, y, z))
            values += a * a + b * b + c * c < 26
    elif name == "noise":
        values = np.clip((noise((PERIOD,) * 3, 5, 11) - 0.5) * 2.2 + 0.5, 0, 1)
    else:
        values = np.zeros((PERIOD,) * 3)
    return _smooth(values).astype(np.float32).ravel()


def look_up(pattern: np.ndarray, texels: np.ndarray) -> np.ndarray:
    """Samples a solid pattern at points (3, N), positive and in texels. Returns (N,)."""
    i, j, k = texels.astype(np.int32) & (PERIOD - 1)
    return pattern.take((i * PERIOD + j) * PERIOD + k)


TILES = {
    "floor": ("planks", "tiles", "checker", "carpet", "rough"),
    "ground": ("grass", "sand", "paving", "rough"),
    "wall": ("plaster", "bricks", "wallpaper", "panels", "rough"),
}


def _pattern(name: str) -> np.ndarray:
    i = np.arange(TILE)
    v, u = np.meshgrid(i, i, indexing="ij")
    coarse, fine = noise((TILE, TILE), 24, 21), noise((TILE, TILE), 3, 22)
    if name == "planks":
        board, along = v // 16, (u + (v // 16 * 97)) % TILE
        shade = PortableRng(23).random_array(512).reshape(16, 32)[board, along // 128]
        return np.where((v % 16 == 0) | (along % 128 == 0), 0.0, 0.35 + 0.4 * shade + 0.25 * np.roll(fine, 7, 0))
    if name == "tiles":
        shade = PortableRng(24).random_array(64).reshape(8, 8)[v // 32, u // 32]
        return np.where((v % 32 < 2) | (u % 32 < 2), 0.0, 0.65 + 0.3 * shade)
    if name == "checker":
        return np.where((v // 32 + u // 32) % 2, 0.9, 0.15) + 0.1 * fine
    if name == "bricks":
        row, along = v // 16, (u + v // 16 * 16) % TILE
        shade = PortableRng(25).random_array(128).reshape(16, 8)[row, along // 32]
        return np.where((v % 16 < 2) | (along % 32 < 2), 0.0, 0.5 + 0.35 * shade + 0.15 * fine)
    if name == "wallpaper":
        return np.where(u % 32 < 14, 0.3, 0.8) + 0.1 * fine
    if name == "panels":
        return np.where((u % 64 < 2) | (v % 128 < 2), 0.0, np.where((u % 64 < 5) | (v % 128 < 5), 1.0, 0.7))
    if name == "paving":
        shade = PortableRng(26).random_array(16).reshape(4, 4)[v // 64, u // 64]
        return np.where((v % 64 < 3) | (u % 64 < 3), 0.05, 0.45 + 0.3 * shade + 0.3 * fine)
    if name == "grass":
        return 0.7 * fine + 0.3 * coarse
    if name == "sand":
        return 0.3 * fine + 0.7 * coarse
    if name == "carpet":
        return 0.4 + 0.4 * fine
    if name == "plaster":
        return 0.5 + 0.35 * coarse
    return 0.5 * coarse + 0.5 * noise((TILE, TILE), 8, 27)  # rough


@cache
def tile(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mipmap of a tile: all levels concatenated, (T,) float32, and the offset of each, (LEVELS,) int32."""
    level = np.clip(_pattern(name), 0, 1)
    levels = [level]
    for _ in range(LEVELS - 1):
        level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2]) / 4
        levels.append(level)
    starts = np.cumsum([0] + [texels.size for texels in levels[:-1]])
    return np.concatenate([_smooth(texels).ravel() for texels in levels]).astype(np.float32), starts.astype(np.int32)


def sample(name: str, u: np.ndarray, v: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Samples a tile at (u, v), integer texels of level 0, with a level 0 ... LEVELS-1 per pixel. Shapes broadcast."""
    values, starts = tile(name)
    mask = (TILE - 1) >> level
    width = TILE >> level
    return values.take(((v >> level) & mask) * width + starts[level] + ((u >> level) & mask))
