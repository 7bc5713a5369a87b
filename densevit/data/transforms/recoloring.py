"""Random colours of training images: the built-in changes, and the check that a change of colour moves no pixels."""

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np

from densevit.errors import DataError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for updates over the network

Recoloring = Literal["none", "gentle", "photometric"]

_STRIPES, _WIDTH = 32, 8  # stripes of an encoded position along a side, and their pixels
_CELLS = 2 * _STRIPES  # along a side, of which one is inside of a stripe wherever that has moved
_DARK, _BRIGHT = 60, 200  # not made equal by solarizing
_DRAWS, _TRIES, _SECONDS = 16, 64, 2.0
_MOVED = 0.02  # share of the cells; less is noise
_CLEAR = 0.8  # of the median contrast; a cell below it is erased, or shows several stripes


def recolored(recoloring: Recoloring | Sequence[Any]) -> list[Any]:
    """Returns the given albumentations transforms, or built-in changes of brightness, contrast and colour, each with
    probability 0.5.

    photometric: SSD's (Liu et al. 2016) as mmsegmentation has it, with contrast either before or after the colours:
    brightness by up to 32 of 255, contrast and saturation by 0.5 to 1.5, hue by up to 18 of OpenCV's 180. Saturation is
    torchvision's, a blend with grey, where mmsegmentation multiplies that of HSV; values are rounded after each step.
    """
    if not isinstance(recoloring, str):
        return list(recoloring)
    if recoloring == "none":
        return []
    import albumentations as A

    if recoloring == "gentle":
        return [A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)]
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    brightness = A.RandomBrightnessContrast(brightness_limit=32 / 255, contrast_limit=0, p=0.5)
    contrast = A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.5, p=0.5)
    saturation = A.ColorJitter(**plain | {"saturation": (0.5, 1.5)}, p=0.5)
    hue = A.ColorJitter(**plain | {"hue": 18 / 180}, p=0.5)
    orders = ([brightness, contrast, saturation, hue], [brightness, saturation, hue, contrast])
    return [A.OneOf([A.Sequential(order) for order in orders], p=1)]


def recolor(step: Any, pixels: np.ndarray) -> np.ndarray:
    """Applies a colour transform. Raises DataError unless it returns uint8 of the same shape."""
    recolored: np.ndarray = step(image=pixels)["image"]
    if recolored.dtype != np.uint8 or recolored.shape != pixels.shape:
        raise DataError(
            f"The recoloring {type(step).__name__} returns {recolored.dtype} {recolored.shape} for uint8 "
            f"{pixels.shape}; the same type and shape are expected. Fix: leave it out; the model normalises images, "
            "and training_frame of the transforms crops and resizes them."
        )
    return recolored


def moves_pixels(step: Any) -> bool:
    """Whether a colour transform, with albumentations' interface, moves pixels by more than 3 % of the image's side.

    Images of stripes encode the positions (Gray codes, as structured light does): in each of 16 random draws, one image
    and its negative are transformed for each bit of the column and of the row. Which of the two is brighter at a cell
    is a bit of its origin. Images of one histogram are equalised alike, noise averages out in a cell, and erased cells
    have no contrast. Slow transforms, above 2 s, are drawn less often.
    """
    side = _STRIPES * _WIDTH
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    draws, deadline = 0, time.monotonic() + _SECONDS
    for seed in range(_TRIES):

        def transformed(image: np.ndarray, seed: int = seed) -> np.ndarray:
            step.set_random_state(np.random.default_rng(seed), random.Random(seed))
            return recolor(step, image.copy())

        try:
            if np.array_equal(transformed(noise), noise):
                continue  # this draw changes nothing
            if _displaced_share(transformed) > _MOVED:
                return True
        except DataError:
            raise
        except Exception:  # perhaps the size of these images; with the training's, the error names the sample
            return False
        draws += 1
        if draws == _DRAWS or time.monotonic() > deadline:
            break
    return False


def _displaced_share(transformed: Callable[[np.ndarray], np.ndarray]) -> float:
    """The share of cells whose column, or whose row, is another one after the transform; the larger of the two."""
    positions = np.arange(_STRIPES)
    codes = positions ^ (positions >> 1)
    shares = []
    for axis in (0, 1):
        contrasts = []
        for bit in range(_STRIPES.bit_length() - 1):
            bright = np.repeat(codes >> bit & 1, _WIDTH).astype(bool)
            image, negative = (transformed(_striped(line, axis)) for line in (bright, ~bright))
            contrasts.append(_cells(image) - _cells(negative))
        contrast = np.stack(contrasts)  # (bits, cells, cells)
        usual = np.median(abs(contrast), axis=(1, 2), keepdims=True)
        clear = (abs(contrast) > _CLEAR * usual).all(0) & (usual > 1).all()
        place = np.expand_dims(np.arange(_CELLS) * _STRIPES // _CELLS, 1 - axis)
        moved = [(clear & (_decoded(sign * contrast > 0) != place)).mean() for sign in (1, -1)]
        shares.append(min(moved))  # -1: colours are inverted
    return float(max(shares))


def _striped(bright: np.ndarray, axis: int) -> np.ndarray:
    """An image (S, S, 3) uint8 whose rows, for axis 0, or columns are bright or dark. bright: (S,) bool."""
    line = np.where(bright, _BRIGHT, _DARK).astype(np.uint8)
    plane = np.stack([line] * line.size, 1 - axis)
    return np.repeat(plane[..., None], 3, 2)


def _cells(image: np.ndarray) -> np.ndarray:
    """The mean brightness of each cell, (cells, cells)."""
    return cv2.resize(image, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA).astype(np.float64).mean(2)


def _decoded(bits: np.ndarray) -> np.ndarray:
    """The positions of Gray codes. bits: (K, ...) bool, the lowest first."""
    position, one = np.zeros(bits.shape[1:], int), np.zeros(bits.shape[1:], bool)
    for bit in reversed(range(len(bits))):
        one = one ^ bits[bit]
        position |= one.astype(int) << bit
    return position
