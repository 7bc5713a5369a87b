"""Random scenes: poses of things, camera, light and background."""

import math
from dataclasses import replace

from densevit_scenes.portable_rng import PortableRng
from densevit_scenes.scene import Camera, Scene, Surface, Thing, Wall, reach, turn
from densevit_scenes.shapes import Vector
from densevit_scenes.textures import TILES
from densevit_scenes.thing_classes import COLORS, FACING, THINGS, draw_coat

MOST = 8  # things in an image
SMALL, LARGE = 0.2, 0.66  # size of a thing relative to the longer side of the image
ATTEMPTS = 14


def draw_scene(
    seed: int, split: int, index: int, height: int, width: int, field_of_view: tuple[float, float] | None = None
) -> Scene:
    """Draws the scene of an index. It is identical on every machine, and for all image sizes of the same aspect
    ratio.

    field_of_view: the range of the angle in degrees that the longer side of the image shows, by another lens in the
    same place; None: that for which the things are placed, 35 to 51.
    """
    rng = PortableRng(seed, split, index)
    camera_height = rng.uniform(0.9, 2.3)
    camera = Camera(rng.uniform(1.05, 1.6), camera_height, math.atan2(camera_height, rng.uniform(3.2, 6.0)))
    (ca, sa), (ce, se) = turn(rng.uniform(-math.pi, math.pi)), turn(rng.uniform(0.45, 1.2))  # azimuth, elevation
    ambient = rng.uniform(0.38, 0.6)
    longer = 2 * camera.focal * max(height, width)
    layout = _Layout(rng, camera, width / longer, height / longer)
    for _ in range(1 + rng.integer(MOST)):
        layout.add_thing()
    slant = turn(rng.uniform(-0.5, 0.5))
    indoors = rng.bernoulli(0.6)
    scene = Scene(
        camera=camera,
        light=(ce * sa, se, ce * ca),
        ambient=ambient,
        diffuse=rng.uniform(0.95, 1.15) - ambient,
        things=tuple(layout.things),
        walls=_corner(rng, slant, layout.things) if indoors else (),
        floor=_surface(rng, "floor" if indoors else "ground", rng.uniform(0.1, 0.4), slant),
        backdrop=_surface(rng, "wall", rng.uniform(0.05, 0.3), slant),
        grain=rng.integer(1 << 16),
    )
    if field_of_view is None:
        return scene
    focal = round(0.5 / math.tan(math.radians(rng.uniform(*field_of_view)) / 2), 9)
    return replace(scene, camera=replace(camera, focal=focal))


class _Layout:
    """Places things on the ground without intersections and with many occlusions.

    wide, high: half the width and height of the image at depth 1.
    """

    def __init__(self, rng: PortableRng, camera: Camera, wide: float, high: float) -> None:
        self.rng, self.camera, self.wide, self.high = rng, camera, wide, high
        self.things: list[Thing] = []

    def add_thing(self) -> None:
        """Adds a thing at a free position. Gives up after 14 attempts; the first thing then goes to the middle."""
        label = self.rng.integer(len(THINGS))
        for _ in range(ATTEMPTS):
            size = 0.4 * round(2.6 ** self.rng.random(), 9)
            near_another = bool(self.things) and self.rng.bernoulli(0.92)
            x, z = self._beside(size) if near_another else self._anywhere(size)
            if self._in_view(x, z, size) and not self._taken(x, z, size * 0.35):
                thing = self._thing(label, size, x, z)
                if not self._taken(x, z, thing.footprint):
                    self.things.append(thing)
                    return
        if not self.things:
            distance = self.camera.height * self.camera.axes[1][1] / self.camera.axes[1][2]  # the middle of the image
            self.things.append(self._thing(label, 0.25 * distance / self.camera.focal, 0.0, distance))

    def _anywhere(self, size: float) -> tuple[float, float]:
        apparent = SMALL * round((LARGE / SMALL) ** self.rng.random(), 9)
        z = self.camera.focal * size / apparent
        return z * self.wide * self.rng.uniform(-0.9, 0.9), z

    def _beside(self, size: float) -> tuple[float, float]:
        """Returns a position in front of or behind another thing, seen from the camera."""
        other = self.rng.choice(self.things)
        x, _, z = other.centre
        distance = math.sqrt(x * x + z * z)
        ahead = self.rng.choice((-1, 1)) * (other.footprint + size * 0.45) * self.rng.uniform(0.95, 1.4)
        aside = (other.size + size) / 2 * self.rng.uniform(-0.3, 0.3)
        return x + (x * ahead + z * aside) / distance, z + (z * ahead - x * aside) / distance

    def _in_view(self, x: float, z: float, size: float) -> bool:
        across, below, depth = self.camera.see((x, size / 2, z))
        if depth < 0.5 or z < 1 or not SMALL < self.camera.focal * size / depth < LARGE:
            return False
        return abs(across) < 0.93 * self.wide * depth and abs(below) < 0.9 * self.high * depth

    def _taken(self, x: float, z: float, footprint: float) -> bool:
        for other in self.things:
            dx, dz, apart = x - other.centre[0], z - other.centre[2], footprint + other.footprint
            if dx * dx + dz * dz < apart * apart:
                return True
        return False

    def _thing(self, label: int, size: float, x: float, z: float) -> Thing:
        name = tuple(THINGS)[label]
        shape, tilt = THINGS[name](self.rng, size)
        yaw = self.rng.uniform(-math.pi, math.pi)
        if tilt and name in FACING:
            yaw = math.atan2(x, z) + yaw * 0.28
        axes = _posed(yaw, tilt)
        height = reach(shape, axes, (0.0, -1.0, 0.0))
        footprint = max(reach(shape, axes, side) for side in _SIDES) * 1.04
        return Thing(label, shape, size, (x, height, z), axes, footprint, draw_coat(self.rng, size))


_SIDES: list[Vector] = [(cos, 0.0, sin) for cos, sin in (turn(i * math.pi / 4) for i in range(8))]


def _posed(yaw: float, tilt: float) -> tuple[Vector, Vector, Vector]:
    """Returns the axes of a thing in the world: tilted about its x axis, then rotated about the vertical."""
    (ct, st), (cy, sy) = turn(tilt), turn(yaw)
    return (cy, 0.0, -sy), (sy * st, ct, cy * st), (sy * ct, -st, cy * ct)


def _corner(rng: PortableRng, slant: tuple[float, float], things: list[Thing]) -> tuple[Wall, ...]:
    """Returns two walls at a right angle, behind and to the side of all things."""
    cos, sin = slant
    side = rng.choice((-1, 1))
    walls = []
    for x, z in ((-sin, cos), (cos * side, sin * side)):
        nearest = max(x * thing.centre[0] + z * thing.centre[2] + thing.footprint for thing in things)
        gap = rng.random()
        walls.append(Wall((x, z), max(nearest, 0.8) + 0.05 + 1.5 * gap * gap))
    return tuple(walls)


_NATURAL = {"grass": (96, 132, 62), "sand": (206, 178, 128)}


def _surface(rng: PortableRng, surface: str, contrast: float, slant: tuple[float, float]) -> Surface:
    tile, color = rng.choice(TILES[surface]), rng.choice(tuple(COLORS))
    grey, level = rng.uniform(0.35, 0.85), rng.uniform(0.75, 1.15)
    if tile in _NATURAL:
        grey = 0.2
    base = _NATURAL.get(tile, COLORS[color])
    mean = max(sum(base) / 3, 120)
    r, g, b = (level * (grey * mean + (1 - grey) * max(c, 40)) / 255 for c in base)
    low, high = 1 - contrast, 1 + contrast
    return Surface(
        tile=tile,
        paints=((r * low, g * low, b * low), (min(r * high, 1.0), min(g * high, 1.0), min(b * high, 1.0))),
        texels=rng.uniform(40, 110),
        turn=slant,
        phase=(4096 * rng.random(), 4096 * rng.random()),
    )
