"""Target types with one value per pixel: label maps, depth, vector fields and panoptic ids."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from PIL import Image

from densevit.errors import DataError
from densevit.interfaces import IGNORE, LABEL_DIVISOR, VOID, Class, Drawing, Size, TargetType, Window
from densevit.targets.objects import check_range

STEPS_PER_METRE = 256
MAX_PNG_VALUE = 2**16 - 1


class PixelMap(TargetType):
    """A map (H, W) or (C, H, W), resized by nearest neighbour: each pixel takes the value at its centre.

    kinds: numpy's dtype kinds of valid values: "u", "i" or "f". channels: C, or None for (H, W). dtype: the dtype of
    tensors.
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
            raise DataError(f"has the type {value.dtype}; expected {' or '.join(names[kind] for kind in self.kinds)}.")

    def unlabelled(self, size: Size) -> list[np.ndarray]:
        """A map of `fill`."""
        shape = size if self.channels is None else (self.channels, *size)
        return [torch.full(shape, self.fill, dtype=self.dtype).numpy()]

    def hflip(self, value: np.ndarray, size: Size) -> np.ndarray:
        return value[..., ::-1].copy()  # torch needs positive strides, also for a single column

    def rotate(self, value: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
        kind = np.dtype(np.float32) if value.dtype == np.int32 else value.dtype  # OpenCV does not warp int32

        def rotated(x: np.ndarray) -> np.ndarray:
            return cv2.warpAffine(x, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderValue=self.fill)

        return _per_channel(value.astype(kind, copy=False), rotated).astype(value.dtype, copy=False)

    def crop(self, value: np.ndarray, window: Window, size: Size) -> np.ndarray:
        top, left, bottom, right = window
        return value[..., top:bottom, left:right]

    def resize(self, value: np.ndarray, size: Size, new_size: Size, zoom: float = 1.0) -> np.ndarray:
        if size == new_size:
            return value
        return _per_channel(value, lambda x: cv2.resize(x, new_size[::-1], interpolation=cv2.INTER_NEAREST_EXACT))

    def collate(self, values: Sequence[Any], size: Size, device: Any = None) -> torch.Tensor:
        """Returns (B, H, W) or (B, C, H, W); padding and images without this label have the value `fill`."""
        first = next((value for value in values if value is not None), torch.empty(0, dtype=self.dtype, device=device))
        shape = size if self.channels is None else (self.channels, *size)
        batch = first.new_full((len(values), *shape), self.fill, device=device)
        for value, out in zip(values, batch, strict=True):
            if value is not None:
                out[..., : value.shape[-2], : value.shape[-1]] = value
        return batch


class LabelMap(PixelMap):
    """(H, W) uint8 class indices; 255 = ignore."""

    max_classes = IGNORE
    kinds = "u"
    dtype = torch.uint8
    fill = IGNORE
    task: str | None = "segmentation"

    def check(self, value: Any, size: Size) -> None:
        if value.shape == size and value.dtype != np.uint8:
            raise DataError(f"has the type {value.dtype}; expected uint8.")
        super().check(value, size)

    def paste(self, value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Covered pixels take the pasted image's classes."""
        return _painted(value, pasted, covered)

    def map_classes(self, value: np.ndarray, table: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
        indices = np.full(IGNORE + 1, IGNORE, np.uint8)
        indices[: len(table)] = np.where(table < 0, IGNORE, table)
        return indices[value]

    def check_prediction(self, value: Any, size: Size, num_classes: int) -> None:
        self.check(value, size)
        check_range(value, 0, num_classes - 1)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws class colours over the image, with a legend, and a map of errors if there is ground truth."""
        maps = [predictions[key].astype(np.uint8)]
        if truth is not None and key in truth:
            maps.append(truth[key].astype(np.uint8))
            drawing.error_map((maps[0] != maps[1]) & (maps[1] != IGNORE), maps[1] == IGNORE)
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(classes)] = [c.color for c in classes]
        for canvas, labels in zip((drawing.prediction, drawing.truth), maps, strict=False):
            if canvas is not None:
                canvas.overlay(colors[labels], labels < len(classes))
        pixels = np.sum([np.bincount(labels.ravel(), minlength=256) for labels in maps], axis=0)[: len(classes)]
        drawing.legend([classes[n] for n in np.argsort(-pixels, kind="stable") if pixels[n]])

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        """A palette PNG whose pixels are the classes' file ids; 16-bit grey for ids above 255.

        Pixels of no class are 255, or 65535 in 16 bits. If a class has the id 255, the PNG has 16 bits.
        """
        ids = _file_ids(classes)
        pixels = np.bincount(value.ravel(), minlength=IGNORE + 1)
        wrong = len(ids) + np.flatnonzero(pixels[len(ids) : IGNORE])
        if len(wrong):
            raise DataError(
                f"has the value {wrong[0]}; 0 ... {len(ids) - 1} is expected, for {len(ids)} classes, or {IGNORE} for "
                "no class."
            )
        if pixels[IGNORE] and IGNORE in ids:
            ids = ids.astype(np.uint16)
        none = np.iinfo(ids.dtype).max
        if pixels[IGNORE] and none in ids:
            raise DataError(f"has pixels of no class, which are {none} in files, but {none} is the id of a class.")
        table = np.full(IGNORE + 1, none, ids.dtype)
        table[: len(ids)] = ids
        image = Image.fromarray(table[value])
        if ids.dtype == np.uint8:
            palette = np.zeros((256, 3), np.uint8)
            palette[ids] = [c.color for c in classes]
            image.putpalette(palette.tobytes())
        return {".png": image}

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        indices = np.full(MAX_PNG_VALUE + 1, IGNORE, np.uint8)
        indices[_file_ids(classes)] = np.arange(len(classes))
        return indices[np.asarray(encoded[".png"])]

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """The upper quarter is ignored."""
        values = np.full(size, IGNORE, np.uint8)
        if objects:
            values[size[0] // 4 :] = rng.integers(max(num_classes, 1), size=size)[size[0] // 4 :]
        return values


class ValueMap(PixelMap):
    """(H, W) float32, 0 = invalid.

    under_zoom: how values change if the image is enlarged. "divide": metric depth, because an enlarged object looks
    nearer, as with a longer focal length; "multiply": inverse depth; "keep": all others.
    """

    def __init__(self, under_zoom: Literal["divide", "multiply", "keep"] = "keep") -> None:
        self.under_zoom = under_zoom

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

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        return {".npy": value.astype(np.float32, copy=False)}

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        return np.asarray(encoded[".npy"])

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """0.5 to 10; the left quarter is invalid."""
        values = np.zeros(size, np.float32)
        if objects:
            values[:, size[1] // 4 :] = 0.5 + 9.5 * rng.random(size, dtype=np.float32)[:, size[1] // 4 :]
        return values


class Depth(ValueMap):
    """(H, W) float32 metres; 0, negative numbers, nan and infinities are unknown."""

    def __init__(self) -> None:
        super().__init__(under_zoom="divide")

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
        """float32 NPY, and a 16-bit PNG in steps of 1/256 m (KITTI's format) if all values fit."""
        depth = value.astype(np.float32, copy=False)
        steps = np.rint(depth * STEPS_PER_METRE)
        if not ((depth >= 0) & (steps <= MAX_PNG_VALUE)).all():  # False for nan, too
            warnings.warn(
                f"Depth that is negative, not finite or beyond {MAX_PNG_VALUE / STEPS_PER_METRE:.3f} m does not fit a "
                "16-bit PNG: such maps are written as NPY only.",
                stacklevel=2,
            )
            return {".npy": depth}
        steps[(depth > 0) & (steps == 0)] = 1  # 0 would mean unknown
        return {".npy": depth, ".png": Image.fromarray(steps.astype(np.uint16))}


class InverseDepth(ValueMap):
    """(H, W) float32 relative inverse depth, without a unit. Drawn beside the ground truth of `depth`."""

    def __init__(self) -> None:
        super().__init__(under_zoom="multiply")

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        drawing.value_maps(predictions[key], None if truth is None else truth.get("depth"), inverse=True)


class VectorMap(PixelMap):
    """(3, H, W) float32 vectors in the camera's frame, such as surface normals; 0 = unknown.

    y_up: whether y points up; it points down by default, as rows do.
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

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        return {".npy": value.astype(np.float32, copy=False)}

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        return np.asarray(encoded[".npy"])

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        """Unit vectors; the left quarter is unknown."""
        value = rng.standard_normal((3, *size), dtype=np.float32)
        value /= np.linalg.norm(value, axis=0, keepdims=True)
        value[:, :, : size[1] // 4 if objects else None] = 0
        return value


class PanopticMap(PixelMap):
    """(H, W) int32 panoptic ids: class index * 1000 + number of the instance; -1 = void."""

    max_classes = IGNORE  # of its `class_map`
    kinds = "i"
    dtype = torch.int32
    fill = VOID
    task: str | None = "panoptic"
    supersedes = ("semantic", "masks", "boxes")

    def class_map(self, value: np.ndarray) -> np.ndarray:
        return np.where(value == VOID, IGNORE, value // LABEL_DIVISOR).astype(np.uint8)

    def map_classes(self, value: np.ndarray, table: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
        """Maps the classes of segments. Stuff segments whose classes are merged become one segment, with number 0.
        Instances of things whose classes are merged are renumbered if their numbers collide.
        """
        mapped, taken = np.full(value.shape, VOID, np.int32), set()
        for segment in np.unique(value[value != VOID]).tolist():
            new = _mapped_id(segment, table, classes)
            if new != VOID and classes[new // LABEL_DIVISOR].thing:
                base = new // LABEL_DIVISOR * LABEL_DIVISOR
                new = next((n for n in (new, *range(base, base + LABEL_DIVISOR)) if n not in taken), VOID)
                taken.add(new)
            mapped[value == segment] = new
        return mapped

    def separated(self, value: np.ndarray, crowds: Sequence[int], classes: Sequence[Class]) -> np.ndarray:
        """The map before a paste: crowds are void, and only segments of stuff have the number 0.

        classes: those of the map; if there are none, a class with a higher number is one of things.
        """
        value = np.where(np.isin(value, crowds), VOID, value)
        ids = np.unique(value).tolist()
        numbered = {one // LABEL_DIVISOR for one in ids if one % LABEL_DIVISOR}
        things = {i for i, one in enumerate(classes) if one.thing} if classes else numbered
        for one in (label * LABEL_DIVISOR for label in things):
            if one in ids:
                value[value == one] = _unused_id(one, ids)
        return value

    def paste(self, value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Covered pixels take the pasted segments: stuff joins its class, things get unused numbers, from 999 down.

        value, pasted: two results of `separated`. A segment for which no number is left becomes void.
        """
        known, renamed = set(np.unique(value).tolist()), pasted.copy()
        for one in np.unique(pasted[covered]).tolist():
            if one != VOID and one % LABEL_DIVISOR:
                renamed[pasted == one] = new = _unused_id(one, known)
                known.add(new)
        return _painted(value, renamed, covered)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws segments in the colours of their classes, with outlines and names, and wrong classes if there is ground
        truth."""
        maps = []
        for canvas, result in ((drawing.prediction, predictions), (drawing.truth, truth)):
            if canvas is None or result is None or key not in result:
                continue
            ids = [one for one in np.unique(result[key]).tolist() if 0 <= one < len(classes) * LABEL_DIVISOR]
            crowds = result.get("panoptic_crowds", ())
            names = {one: classes[one // LABEL_DIVISOR].name + (" (crowd)" if one in crowds else "") for one in ids}
            canvas.segments(result[key], {one: classes[one // LABEL_DIVISOR].color for one in ids}, names)
            maps.append(self.class_map(result[key]))
        if len(maps) == 2:
            drawing.error_map((maps[0] != maps[1]) & (maps[1] != IGNORE), maps[1] == IGNORE)

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        """COCO's panoptic format: a PNG with ids by colour (R + 256 G + 256² B, 0 = void), and `segments_info`.

        The id of a segment is its panoptic id + 1. Raises DataError if two classes have one file id.
        """
        _check_distinct(classes)
        check_range(value, VOID, len(classes) * LABEL_DIVISOR - 1)
        ids = (value + 1).astype(np.uint32)
        pixels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=2).astype(np.uint8)
        segments = []
        for one in np.unique(value[value != VOID]).tolist():
            mask = (value == one).view(np.uint8)
            info = {"id": one + 1, "category_id": classes[one // LABEL_DIVISOR].file_id}
            info |= {"area": cv2.countNonZero(mask), "bbox": [*cv2.boundingRect(mask)], "iscrowd": 0}
            segments.append(info)
        return {".png": Image.fromarray(pixels), ".json": segments}

    def annotation_file(self, images: Sequence[Any], classes: Sequence[Class]) -> dict[str, Any]:
        """COCO's panoptic json: `images`, `annotations` and `categories`.

        images: the images with their encoded maps, as `image`, `name` and `encoded` (`SupportsAnnotationFile`).
        """
        return {
            "images": [one.image for one in images],
            "annotations": [
                {"image_id": one.image["id"], "file_name": f"{one.name}.png", "segments_info": one.encoded}
                for one in images
            ],
            "categories": [
                {"id": c.file_id, "name": c.name, "isthing": int(c.thing), "color": [*c.color]} for c in classes
            ],
        }

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        """Renumbers the instances of a class, in the order of `segments_info`; without it, reads ids of `encode`."""
        pixels = np.asarray(encoded[".png"]).astype(np.int32)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 256**2 * pixels[..., 2]
        if ".json" not in encoded:
            return np.asarray(ids - 1, np.int32)
        index = {c.file_id: i for i, c in enumerate(classes)}
        value, count = np.full(ids.shape, VOID, np.int32), [0] * len(classes)
        for segment in encoded[".json"]:
            label = index[segment["category_id"]]
            value[ids == segment["id"]] = label * LABEL_DIVISOR + count[label]
            count[label] += 1
        return value

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
        value = np.full(size, VOID, np.int32)
        for n in range(objects):
            value[:, n * size[1] // objects : (n + 1) * size[1] // objects - 1] = (
                int(rng.integers(max(num_classes, 1))) * LABEL_DIVISOR + n
            )
        return value


class PanopticCrowds(TargetType):
    """A list of the panoptic ids of an image's crowds. Crops do not remove ids."""

    task: str | None = "panoptic"

    def check(self, value: Any, size: Size) -> None:
        if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
            raise DataError(f"is {value!r}; expected a list of panoptic ids.")

    def map_classes(self, value: list[int], table: np.ndarray, classes: Sequence[Class]) -> list[int]:
        mapped = [_mapped_id(segment, table, classes) for segment in value]
        return [segment for segment in mapped if segment != VOID]

    def paste(self, value: list[int], pasted: list[int], covered: np.ndarray) -> list[int]:
        """No crowds: their pixels are void, see `PanopticMap.separated`."""
        return []

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> list[int]:
        """No crowds."""
        return []


def _mapped_id(segment: int, table: np.ndarray, classes: Sequence[Class]) -> int:
    """The panoptic id with the new class, VOID if it has none. A stuff class has one segment."""
    label = int(table[segment // LABEL_DIVISOR])
    if label < 0:
        return VOID
    return label * LABEL_DIVISOR + (segment % LABEL_DIVISOR if classes[label].thing else 0)


def _unused_id(segment: int, known: Collection[int]) -> int:
    """A panoptic id of the segment's class, from number 999 down to 1, that is not known; VOID if there is none."""
    base = segment // LABEL_DIVISOR * LABEL_DIVISOR
    return next((one for one in range(base + LABEL_DIVISOR - 1, base, -1) if one not in known), VOID)


def _painted(value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """A copy with the pasted values at covered pixels. pasted, covered: (h, w), at the upper left."""
    painted = value.copy()
    height, width = covered.shape
    np.copyto(painted[:height, :width], pasted, where=covered)
    return painted


def _per_channel(value: np.ndarray, operation: Any) -> np.ndarray:
    """Applies an operation on (H, W) to each channel."""
    return np.asarray(operation(value)) if value.ndim == 2 else np.stack([operation(x) for x in value])


def _file_ids(classes: Sequence[Class]) -> np.ndarray:
    """(K,) uint8, or uint16 if necessary. Raises DataError if a label map cannot hold these ids."""
    _check_distinct(classes)
    for c in classes:
        if not 0 <= c.file_id <= MAX_PNG_VALUE:
            raise DataError(f"Class {c.name!r} has the file id {c.file_id}; label maps hold 0 to {MAX_PNG_VALUE}.")
    ids = [c.file_id for c in classes]
    return np.array(ids, np.uint8 if max(ids) <= 255 else np.uint16)


def _check_distinct(classes: Sequence[Class]) -> None:
    """Raises DataError if classes have the same file id."""
    ids: dict[int, str] = {}
    for c in classes:
        if c.file_id in ids:
            raise DataError(
                f"The classes {ids[c.file_id]!r} and {c.name!r} have the same file id, {c.file_id}, and files of "
                "predictions could not distinguish them. Fix: give each class its own id in the data set."
            )
        ids[c.file_id] = c.name
