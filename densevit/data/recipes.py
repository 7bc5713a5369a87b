"""Which part of a picture is shown to the model, and how large: the sizes behind each recipe, without any pixels."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from densevit.errors import ConfigError

Size = tuple[int, int]  # height, width
Window = tuple[int, int, int, int]  # top, left, bottom, right, in whole pixels

DETR_SHORT, DETR_LONG = 800, 1333
_DETR_SCALES = tuple(range(480, 801, 32))  # short sides
_DETR_CROP_SCALES = (400, 500, 600)  # short sides before the crop
_DETR_CROP = (384, 600)  # least and greatest side of the crop

_ZOOM = 1.25  # `fixed` enlarges and shrinks at most so much
_ZOOMED = 0.5  # the share of pictures that it zooms


class Frame(NamedTuple):
    """A window on a picture, and the size to which it is resized."""

    window: Window
    size: Size


class Recipe(Protocol):
    """canvas: (h, w) to which pictures are padded, or None. recolors: whether training shifts colours."""

    @property
    def canvas(self) -> Size | None: ...

    @property
    def recolors(self) -> bool: ...

    def evaluation_size(self, height: int, width: int) -> Size: ...

    def training_frame(self, height: int, width: int, rng: np.random.Generator) -> Frame: ...


def build_recipe(name: str, image_size: int | Size | None) -> Recipe:
    """The recipe that `data.recipe` and `data.image_size` describe.

    fixed, and resize, which is that without augmentation: an int is the long side; [h, w] is what the picture is fitted
    into; None leaves it as it is.
    detr: [short, long] are the short side and the most that the long side may become, in evaluation, and training's
    scales follow in proportion; an int is the short side alone; None is the paper's [800, 1333].
    """
    if name in ("fixed", "resize"):
        return Fixed(image_size)
    if name == "detr":
        if image_size is None:
            image_size = (DETR_SHORT, DETR_LONG)
        if isinstance(image_size, int):
            image_size = (image_size, round(image_size * DETR_LONG / DETR_SHORT))
        short, longest = image_size
        if short > longest:
            raise ConfigError(
                f"data.image_size: the recipe 'detr' takes [short, greatest long side], not {[*image_size]}."
            )
        return Detr(short, longest)
    raise ConfigError(f"data.recipe: there is no recipe {name!r}. Known: detr, fixed, resize.")


@dataclass(frozen=True)
class Fixed:
    """One size for all: the long side, or a box to fit into. Training zooms half of the pictures by up to a quarter.

    Enlarging crops. Shrinking makes the picture smaller, and the batch's padding takes the room.
    """

    target: int | Size | None
    recolors: bool = True

    @property
    def canvas(self) -> Size | None:
        """(h, w) that pictures are padded to, where two numbers were given."""
        return self.target if isinstance(self.target, tuple) else None

    def evaluation_size(self, height: int, width: int) -> Size:
        """The largest size of the picture's own aspect that fits."""
        if self.target is None:
            return height, width
        bound = (self.target, self.target) if isinstance(self.target, int) else self.target
        scale = min(bound[0] / height, bound[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def training_frame(self, height: int, width: int, rng: np.random.Generator) -> Frame:
        """As in evaluation, or zoomed."""
        size = self.evaluation_size(height, width)
        zoom = _ZOOM ** rng.uniform(-1, 1) if rng.random() < _ZOOMED else 1.0
        if zoom <= 1:
            return Frame((0, 0, height, width), (max(1, round(size[0] * zoom)), max(1, round(size[1] * zoom))))
        h, w = math.ceil(height / zoom), math.ceil(width / zoom)
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        return Frame((top, left, top + h, left + w), size)


@dataclass(frozen=True)
class Detr:
    """Carion et al. 2020, appendix A.4: a random short side; in half of the pictures, of a random crop.

    The paper resizes, crops and resizes again. Here the crop is found on the picture itself, which is resampled once.
    """

    short: int
    longest: int
    recolors: bool = False
    canvas: Size | None = None

    def evaluation_size(self, height: int, width: int) -> Size:
        """The greatest of the recipe's scales."""
        return resize_short_side(height, width, self.short, self.longest)

    def training_frame(self, height: int, width: int, rng: np.random.Generator) -> Frame:
        """One of the paper's two branches."""
        whole = rng.random() < 0.5
        short = self._scaled(int(rng.choice(_DETR_SCALES)))
        if whole:
            return Frame((0, 0, height, width), resize_short_side(height, width, short, self.longest))
        middle = resize_short_side(height, width, self._scaled(int(rng.choice(_DETR_CROP_SCALES))))
        least, most = map(self._scaled, _DETR_CROP)
        h, w = (int(rng.integers(min(least, side), min(most, side) + 1)) for side in middle)
        top, left = int(rng.integers(middle[0] - h + 1)), int(rng.integers(middle[1] - w + 1))
        down, right = height / middle[0], width / middle[1]
        first, begin = min(round(top * down), height - 1), min(round(left * right), width - 1)
        last, end = max(round((top + h) * down), first + 1), max(round((left + w) * right), begin + 1)
        return Frame((first, begin, last, end), resize_short_side(h, w, short, self.longest))

    def _scaled(self, side: int) -> int:
        return round(side * self.short / DETR_SHORT)


def resize_short_side(height: int, width: int, short: int, longest: int | None = None) -> Size:
    """(h, w) with this short side, or less where the long one would pass `longest`; rounded as the authors do."""
    low, high = min(height, width), max(height, width)
    if longest is not None and short * high / low > longest:
        short = max(1, round(longest * low / high))
    if height <= width:
        return short, max(1, int(short * width / height))
    return max(1, int(short * height / width)), short
