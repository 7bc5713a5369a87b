"""Target types with numbers per pixel: depth, inverse depth, vectors, and the base class of all maps."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from PIL import Image

from densevit.errors import DataError
from densevit.interfaces import Class, Drawing, Size, TargetType, Window
from densevit.targets.object_targets import check_range

MAX_PNG_VALUE = 2**16 - 1


class PixelMap(TargetType):
    """A map (H, W) or (C, H, W), resized by nearest neighbour: each pixel takes the value at its centre.

    kinds: the numpy dtype kinds of valid values: "u", "i" or "f". channels: C, or None for (H, W). dtype: the dtype of
    collated tensors.
    """

    per: ClassVar[Literal["image", "object", "pixel"]] = "pixel"
    layer = -2
    kinds = "f"
    channels: int | None = None
    dtype = torch.float32

    def check(self, value: Any, size: Size) -> None:
        expected = size if self.channels is None else (self.channels, *size)
        if value.shape != expected:
            raise DataError(f"has shape {tuple(value.shape)}; expected {expected}, like the image.")
        if value.dtype.kind not in self.kinds:
            names = {"u": "unsigned integers", "i": "integers", "f": "floating-point numbers"}
            raise DataError(
                f"has the type {value.dtype}; expected {' or '.join(names[letter] for letter in self.kinds)}."
            )

    def from_integers(self, value: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Converts a tensor of int64 to `dtype`, on any device and without waiting for it.

        num_classes: the number of classes of `task`; 0: unknown. Returns the map, and a mask of the pixels whose value
        `dtype` cannot hold.
        """
        limits = torch.iinfo(self.dtype)
        wrong = (value < limits.min) | (value > limits.max)
        return value.to(self.dtype), wrong

    def unlabelled(self, size: Size) -> list[np.ndarray]:
        """Returns a map filled with `fill`."""
        shape = size if self.channels is None else (self.channels, *size)
        return [torch.full(shape, self.fill, dtype=self.dtype).numpy()]

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        return value[..., ::-1].copy()  # torch needs positive strides, also for a single column

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        dtype = np.dtype(np.float32) if value.dtype == np.int32 else value.dtype  # OpenCV does not warp int32

        def rotated(x: np.ndarray) -> np.ndarray:
            return cv2.warpAffine(x, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderValue=self.fill)

        return _per_channel(value.astype(dtype, copy=False), rotated).astype(value.dtype, copy=False)

    def crop(self, value: np.ndarray, window: Window, size: Size) -> np.ndarray:
        top, left, bottom, right = window
        return value[..., top:bottom, left:right]

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        if size == new_size:
            return value
        return _per_channel(value, lambda x: cv2.resize(x, new_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))

    def collate(self, values: Sequence[Any], size: Size, device: Any = None) -> torch.Tensor:
        """Returns (B, H, W) or (B, C, H, W), with `fill` in the padding and in images without this label."""
        first = next((value for value in values if value is not None), torch.empty(0, dtype=self.dtype, device=device))
        shape = size if self.channels is None else (self.channels, *size)
        batch = first.new_full((len(values), *shape), self.fill, device=device)
        for value, out in zip(values, batch, strict=True):
            if value is not None:
                out[..., : value.shape[-2], : value.shape[-1]] = value
        return batch


class FloatMap(PixelMap):
    """A map of floating-point numbers, which files hold as NPY."""

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        return {".npy": value.astype(np.float32, copy=False)}

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        return np.asarray(encoded[".npy"])


class ValueMap(FloatMap):
    """(H, W) float32, 0 = invalid.

    under_zoom: replaces the attribute of `TargetType`.
    """

    def __init__(self, under_zoom: Literal["divide", "multiply", "keep"] | None = None) -> None:
        self.under_zoom = under_zoom or self.under_zoom

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        resized = super().resize(value, size, new_size)
        if zoom == 1 or self.under_zoom == "keep":
            return resized
        return resized / np.float32(zoom) if self.under_zoom == "divide" else resized * np.float32(zoom)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws maps with colour bars, and the relative error."""
        drawing.value_maps(predictions[key], None if truth is None else truth.get(key), unit="")

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """Returns values from 0.5 to 10; the left quarter is invalid."""
        values = np.zeros(size, np.float32)
        if objects:
            values[:, size[1] // 4 :] = 0.5 + 9.5 * rng.random(size, dtype=np.float32)[:, size[1] // 4 :]
        return values


class Depth(ValueMap):
    """(H, W) float32 metres; 0, negative numbers, nan and infinities are unknown.

    scale: metres per unit of the PNG that `encode` returns; by default KITTI's 1/256.
    """

    under_zoom = "divide"

    def __init__(self, under_zoom: Literal["divide", "multiply", "keep"] | None = None, scale: float = 1 / 256) -> None:
        super().__init__(under_zoom)
        self.scale = scale

    def unlabelled(self, size: Size) -> list[np.ndarray]:
        return [np.full(size, value, np.float32) for value in (0, -1, np.nan, np.inf, -np.inf)]

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        self.check(value, size)
        check_range(value, 0, np.inf)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        drawing.value_maps(predictions[key], None if truth is None else truth.get(key))

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        """Returns a float32 NPY, and a 16-bit PNG in steps of `scale` metres if all values fit."""
        depth = value.astype(np.float32, copy=False)
        steps = np.rint(depth / np.float32(self.scale))
        if not ((depth >= 0) & (steps <= MAX_PNG_VALUE)).all():  # False for nan, too
            warnings.warn(
                f"Depth that is negative, not finite or beyond {MAX_PNG_VALUE * self.scale:.3f} m does not fit a "
                "16-bit PNG: such maps are written as NPY only.",
                stacklevel=2,
            )
            return {".npy": depth}
        steps[(depth > 0) & (steps == 0)] = 1  # 0 would mean unknown
        return {".npy": depth, ".png": Image.fromarray(steps.astype(np.uint16))}


class InverseDepth(ValueMap):
    """(H, W) float32 relative inverse depth, without a unit. Drawn next to the ground truth of `depth`."""

    under_zoom = "multiply"

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        drawing.value_maps(predictions[key], None if truth is None else truth.get("depth"), inverse=True)


class VectorMap(FloatMap):
    """(3, H, W) float32 vectors in the camera's frame, such as surface normals; 0 = unknown.

    y_up: whether y points up; by default it points down, like rows.
    """

    channels = 3

    def __init__(self, y_up: bool = False) -> None:
        self.y_up = y_up

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        """Flips the map and the sign of x."""
        flipped = value[..., ::-1].copy()
        np.negative(flipped[0], out=flipped[0])
        return flipped

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        """Rotates the map and its vectors with the image."""
        rotated = super().rotate(value, matrix, size)
        sign = -1 if self.y_up else 1
        (a, b), (c, d) = matrix[:, :2].astype(value.dtype)
        x, y = rotated[0], sign * rotated[1]
        return np.stack([a * x + b * y, sign * (c * x + d * y), rotated[2]])

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws vectors as RGB: -1 ... 1 is mapped to 0 ... 255; unknown is black."""
        maps = {"truth": truth.get(key) if truth is not None else None, "prediction": predictions[key]}
        for caption, value in maps.items():
            if value is not None:
                colors = np.rint((value.clip(-1, 1) + 1) * 127.5).astype(np.uint8) * (value != 0).any(axis=0)
                drawing.panel(f"{key}, {caption}", np.ascontiguousarray(colors.transpose(1, 2, 0)))

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """Returns unit vectors; the left quarter is unknown."""
        value = rng.standard_normal((3, *size), dtype=np.float32)
        value /= np.linalg.norm(value, axis=0, keepdims=True)
        value[:, :, : size[1] // 4 if objects else None] = 0
        return value


def _per_channel(value: np.ndarray, operation: Any) -> np.ndarray:
    """Applies an operation on (H, W) to each channel."""
    return np.asarray(operation(value)) if value.ndim == 2 else np.stack([operation(x) for x in value])


def painted(value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Copies a map and writes the pasted values at covered pixels. pasted, covered: (h, w), at the upper left."""
    painted = value.copy()
    height, width = covered.shape
    np.copyto(painted[:height, :width], pasted, where=covered)
    return painted
