"""Random augmentation for training: geometry by the target types, colours by albumentations."""

import math
import random
from collections.abc import Iterable
from typing import Any, Protocol, cast, runtime_checkable

import cv2
import numpy as np
import torch

from densevit.channels import RGB, Channels
from densevit.data.transforms.color_augmentation import apply_color_transform, color_transforms, reason_it_moves_pixels
from densevit.data.transforms.sample_resizing import (
    Types,
    Values,
    by_channels,
    finished,
    image_size,
    new_pixels,
    resize_image,
    selected,
    to_pixels,
    usable_values,
    visible_values,
)
from densevit.errors import ConfigError
from densevit.interfaces import Sample, Size, TargetType, Transforms, Window
from densevit.layers.missing_pixels import resampled, valid_mean
from densevit.targets.types import TargetTypes, has_place


class Augmentation:
    """Flips, rotates, crops and resizes a sample and changes its colours as its `Transforms` say.

    vertical_flip: also flips images vertically, with probability 0.5.
    reference: the transforms of evaluation, to which zooms are relative; None: `transforms`. channels: the images'
        channels. Colours change in 8-bit RGB only; added pixels have the values of `new_pixels`.
    """

    def __init__(
        self,
        transforms: Transforms,
        vertical_flip: bool = False,
        reference: Transforms | None = None,
        channels: Channels = RGB,
    ) -> None:
        self.transforms, self.vertical_flip, self.reference = transforms, vertical_flip, reference or transforms
        self.channels = channels
        self._color_transforms = color_transforms(transforms.color_augmentation) if channels.is_rgb else []
        self._reasons = [reason_it_moves_pixels(step) for step in self._color_transforms]

    def __call__(self, sample: Sample, rng: np.random.Generator, types: Types | None = None) -> Sample:
        """Returns the augmented sample: targets on the new grid, without crowds and cropped objects, with `size` and
        `original_size`.

        An object is kept if part of its box is inside; with masks, if a pixel of its mask is.
        types: the target type of each key; by default the registered ones.
        """
        types = TargetTypes() if types is None else types
        pixels, size = to_pixels(sample["image"]), image_size(sample)
        values = usable_values(sample, types)
        self.check(values, types)
        coins = random.Random(int(rng.integers(2**32)))
        if coins.random() < 0.5:
            pixels = by_channels(lambda x: cv2.flip(x, 1), pixels)
            values = {key: types[key].hflip(value, size) for key, value in values.items()}
        if self.vertical_flip and rng.random() < 0.5:
            pixels = by_channels(lambda x: cv2.flip(x, 0), pixels)
            values = {key: vflip(types[key], value, size) for key, value in values.items()}
        if limit := self.transforms.rotation:
            matrix = rotation_matrix(size, float(rng.uniform(-limit, limit)))
            pixels = rotated(pixels, matrix, new_pixels(pixels.transpose(2, 0, 1), self.channels).ravel())
            values = {key: types[key].rotate(value, matrix, size) for key, value in values.items()}
        pixels, values = self._crop_and_resize(pixels, values, types, rng)
        for step in self._color_transforms:
            step.set_random_state(rng, coins)
            pixels = apply_color_transform(step, pixels)
        return finished(pixels, sample, values, size, self.transforms.canvas)

    def check(self, keys: Iterable[str], types: Types) -> None:
        """Raises ConfigError if a colour transform may move pixels and one of these targets, such as boxes, has
        positions in the image, which would become wrong."""
        spatial_keys = [key for key in keys if key in types and has_place(types[key])]
        moves = next(filter(None, self._reasons), None) if spatial_keys else None
        if moves is not None:
            raise ConfigError(
                f"{moves}, but labels have places in the image ({', '.join(spatial_keys)}) and would not follow. Fix: "
                "leave it out; training_crop and rotation of the transforms, and data.vertical_flip, move pixels and "
                "labels together. A transform that moves none says so by its attribute moves_pixels = False."
            )

    def _crop_and_resize(
        self, pixels: np.ndarray, values: Values, types: Types, rng: np.random.Generator
    ) -> tuple[np.ndarray, Values]:
        """Crops the random window that the transforms choose (`Transforms.training_crop`) and resizes it, in one
        resampling. If the window extends beyond the image, only the part inside is resized, and placed on a larger
        image."""
        size = (pixels.shape[0], pixels.shape[1])
        class_maps = (class_map(types[key], value) for key, value in values.items())
        labels = next((label_map for label_map in class_maps if label_map is not None), None)
        boxes = values.get("boxes")
        window, new_size = self.transforms.training_crop_with_boxes(*size, rng, labels, boxes)
        inside, destination = part_inside(window, size, new_size)
        if self.transforms.kept_objects == "centred" and boxes is not None:
            values = selected(values, types, centred(boxes, window))
        top, left, bottom, right = window
        cropped = (bottom - top, right - left)
        usual = math.prod(self.reference.evaluation_size(*size)) / math.prod(size)
        zoom = math.sqrt(math.prod(new_size) / math.prod(cropped) / usual)
        new_sides = (destination[2] - destination[0], destination[3] - destination[1])  # of the part inside
        for key, value in values.items():
            if types[key].per == "pixel" and inside != window:
                value = types[key].crop(value, inside, size)
                value = types[key].resize(value, value.shape[-2:], new_sides, zoom)
                values[key] = placed(value, destination, new_size, types[key].fill)
            else:
                value = types[key].crop(value, window, size)
                values[key] = types[key].resize(value, cropped, new_size, zoom)
        if self.transforms.min_visible and len(values.get("boxes", ())):
            kept = visible_shares(values["boxes"], new_size) >= self.transforms.min_visible
            values = selected(values, types, kept)
        part = resize_image(pixels[inside[0] : inside[2], inside[1] : inside[3]], new_sides)
        if inside != window:
            fill = new_pixels(pixels.transpose(2, 0, 1), self.channels)
            part = placed(part.transpose(2, 0, 1), destination, new_size, fill).transpose(1, 2, 0)
        return part, visible_values(values, types, new_size)


def part_inside(window: Window, size: Size, new_size: Size) -> tuple[Window, Window]:
    """Returns the part of a window inside an image of this size, and where it lies, in whole pixels, in the window
    resized to `new_size`. Raises ConfigError if no pixel is inside."""
    bounds: list[tuple[int, int, int, int]] = []
    for low, high, limit, new in zip(window[:2], window[2:], size, new_size, strict=True):
        first, last = max(low, 0), min(high, limit)
        if first >= last:
            raise ConfigError(
                f"data.transforms: the window {(*window,)} is outside of an image of {size[0]} x {size[1]}."
            )
        start, end = (round((edge - low) * new / (high - low)) for edge in (first, last))
        start = min(start, new - 1)
        bounds.append((first, last, start, max(end, start + 1)))
    (top, bottom, y, y_end), (left, right, x, x_end) = bounds
    return (top, left, bottom, right), (y, x, y_end, x_end)


def centred(boxes: np.ndarray, window: Window) -> np.ndarray:
    """Returns (N,) bool: whether the centre of each box is inside a window. boxes: (N, 4) xyxy."""
    centres = (boxes[:, 1::-1] + boxes[:, :1:-1]) / 2  # (N, 2): y, x
    return np.asarray(((centres > window[:2]) & (centres < window[2:])).all(axis=1))


def rotated(pixels: np.ndarray, matrix: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Rotates an image (H, W, C), which keeps its size. matrix: the result of `rotation_matrix`. fill: the values (C,)
    of added pixels; in float32 images they are missing instead."""
    height, width, channels = pixels.shape
    most = 3 if channels == 3 else 1  # OpenCV samples other numbers of channels at 1/32 pixel

    is_float = pixels.dtype == np.float32
    border = np.zeros_like(fill) if is_float else fill

    def warped(x: np.ndarray, border: np.ndarray) -> np.ndarray:
        return cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=border.tolist())

    return (valid_mean if is_float else resampled)(
        torch.from_numpy(pixels),
        lambda x: torch.from_numpy(by_channels(warped, x.numpy(), border, most=most)),
    ).numpy()


def placed(value: np.ndarray, destination: Window, size: Size, fill: float | np.ndarray) -> np.ndarray:
    """Returns a map (..., H, W) of this size: `value` in the destination window, `fill` around it."""
    canvas = np.full((*value.shape[:-2], *size), fill, value.dtype)
    canvas[..., destination[0] : destination[2], destination[1] : destination[3]] = value
    return canvas


def visible_shares(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Returns the share (N,) of each box's area inside an image. boxes: (N, 4) xyxy in pixels, with an area above 0."""
    inside = np.clip(boxes, 0, (size[1], size[0], size[1], size[0]))
    areas = [np.prod(corners[:, 2:] - corners[:, :2], axis=1, dtype=np.float64) for corners in (inside, boxes)]
    return np.asarray(areas[0] / areas[1])


def vflip(target_type: TargetType, value: Any, size: Size) -> Any:
    """Flips a value vertically: horizontally, then by a rotation of 180 degrees."""
    half_turn = np.array([[-1.0, 0.0, size[1] - 1], [0.0, -1.0, size[0] - 1]])
    return target_type.rotate(target_type.hflip(value, size), half_turn, size)


def rotation_matrix(size: Size, angle: float) -> np.ndarray:
    """Returns the (2, 3) matrix of a counterclockwise rotation about the image's centre. angle: degrees. The centre
    of the first pixel is at 0."""
    return np.asarray(cv2.getRotationMatrix2D(((size[1] - 1) / 2, (size[0] - 1) / 2), angle, 1.0))


@runtime_checkable
class SupportsClassMap(Protocol):
    """A target type whose values give a label map, such as panoptic maps."""

    def class_map(self, value: Any) -> np.ndarray | None:
        """Returns class indices (H, W) uint8, 255 = none."""


def class_map(target: TargetType, value: Any) -> np.ndarray | None:
    """Returns the label map of a value, by `SupportsClassMap` or else the value of a type per pixel with a task; None
    for other types."""
    if issubclass(type(target), SupportsClassMap):  # cached by class: isinstance takes 40 microseconds per value
        return cast(SupportsClassMap, target).class_map(value)
    return value if target.per == "pixel" and target.task else None
