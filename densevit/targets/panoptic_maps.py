"""Target types of panoptic maps: a class and an instance number per pixel, and the ids of crowds."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from densevit.errors import DataError
from densevit.interfaces import IGNORE, LABEL_DIVISOR, VOID, Class, Drawing, Size, TargetType
from densevit.targets.object_targets import check_range, drawn_values
from densevit.targets.pixel_maps import PixelMap, painted
from densevit.targets.semantic_maps import check_distinct_ids


class PanopticMap(PixelMap):
    """(H, W) int32 panoptic ids: class index * 1000 + instance number; -1 = void."""

    max_classes = IGNORE  # `class_map` is uint8
    kinds = "i"
    dtype = torch.int32
    fill = VOID
    task: str | None = "panoptic"
    supersedes = ("semantic", "masks", "boxes")

    def check_classes(self, value: np.ndarray, num_classes: int) -> None:
        check_range(value, VOID, num_classes * LABEL_DIVISOR - 1)

    def class_map(self, value: np.ndarray) -> np.ndarray:
        return np.where(value == VOID, IGNORE, value // LABEL_DIVISOR).astype(np.uint8)

    def map_classes(self, value: np.ndarray, table: np.ndarray, classes: Sequence[Class]) -> np.ndarray:
        """Maps the classes of segments. Stuff segments of merged classes become one segment, with number 0. Things of
        merged classes are renumbered if their numbers collide.
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
        """Prepares a map for `paste`: crowds become void, and only stuff segments keep the number 0.

        classes: the classes of the map; if empty, classes with a number above 0 count as things.
        """
        value = np.where(np.isin(value, crowds), VOID, value)
        ids = np.unique(value).tolist()
        numbered = {panoptic_id // LABEL_DIVISOR for panoptic_id in ids if panoptic_id % LABEL_DIVISOR}
        things = {i for i, c in enumerate(classes) if c.thing} if classes else numbered
        for label in things:
            unnumbered = label * LABEL_DIVISOR
            if unnumbered in ids:
                value[value == unnumbered] = _unused_id(unnumbered, ids)
        return value

    def paste(self, value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Writes the pasted segments at covered pixels: stuff joins its class, things get unused numbers, from 999
        down.

        value, pasted: results of `separated`. A segment for which no number is left becomes void.
        """
        taken, renamed = set(np.unique(value).tolist()), pasted.copy()
        for segment in np.unique(pasted[covered]).tolist():
            if segment != VOID and segment % LABEL_DIVISOR:
                renamed[pasted == segment] = new = _unused_id(segment, taken)
                taken.add(new)
        return painted(value, renamed, covered)

    def draw(
        self,
        drawing: Drawing,
        key: str,
        predictions: Mapping[str, Any],
        truth: Mapping[str, Any] | None,
        classes: Sequence[Class],
    ) -> None:
        """Draws segments in the colours of their classes, with outlines and names, and a map of errors if there is
        ground truth."""
        maps = []
        for canvas, result in drawn_values(drawing, key, predictions, truth):
            ids = [i for i in np.unique(result[key]).tolist() if 0 <= i < len(classes) * LABEL_DIVISOR]
            segments, crowds = {i: classes[i // LABEL_DIVISOR] for i in ids}, result.get("panoptic_crowds", ())
            names = {i: c.name + (" (crowd)" if i in crowds else "") for i, c in segments.items()}
            canvas.segments(result[key], {i: c.color for i, c in segments.items()}, names)
            maps.append(self.class_map(result[key]))
        if len(maps) == 2:
            drawing.error_map((maps[0] != maps[1]) & (maps[1] != IGNORE), maps[1] == IGNORE)

    def encode(self, value: np.ndarray, classes: Sequence[Class]) -> dict[str, Any]:
        """Encodes in COCO's panoptic format: a PNG with ids as colours (R + 256 G + 256² B, 0 = void), and
        `segments_info`.

        The id of a segment is its panoptic id + 1. Raises DataError if two classes have the same file id.
        """
        check_distinct_ids(classes)
        self.check_classes(value, len(classes))
        ids = (value + 1).astype(np.uint32)
        pixels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=2).astype(np.uint8)
        segments = []
        for segment in np.unique(value[value != VOID]).tolist():
            mask = (value == segment).view(np.uint8)
            info = {"id": segment + 1, "category_id": classes[segment // LABEL_DIVISOR].file_id}
            info |= {"area": cv2.countNonZero(mask), "bbox": [*cv2.boundingRect(mask)], "iscrowd": 0}
            segments.append(info)
        return {".png": Image.fromarray(pixels), ".json": segments}

    def annotation_file(self, images: Sequence[Any], classes: Sequence[Class]) -> dict[str, Any]:
        """Returns COCO's panoptic json: `images`, `annotations` and `categories`.

        images: the images with their encoded maps, as `image`, `name` and `encoded` (`SupportsAnnotationFile`).
        """
        return {
            "images": [image.image for image in images],
            "annotations": [
                {"image_id": image.image["id"], "file_name": f"{image.name}.png", "segments_info": image.encoded}
                for image in images
            ],
            "categories": [
                {"id": c.file_id, "name": c.name, "isthing": int(c.thing), "color": [*c.color]} for c in classes
            ],
        }

    def decode(self, encoded: Mapping[str, Any], classes: Sequence[Class]) -> np.ndarray:
        """Numbers the instances of a class in the order of `segments_info`; without it, pixels are ids of `encode`."""
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
    """List of the panoptic ids of an image's crowds. Crops do not remove ids."""

    task: str | None = "panoptic"

    def check(self, value: Any, size: Size) -> None:
        if not isinstance(value, list) or not all(isinstance(segment, int) for segment in value):
            raise DataError(f"is {value!r}; expected a list of panoptic ids.")

    def map_classes(self, value: list[int], table: np.ndarray, classes: Sequence[Class]) -> list[int]:
        mapped = [_mapped_id(segment, table, classes) for segment in value]
        return [segment for segment in mapped if segment != VOID]

    def paste(self, value: list[int], pasted: list[int], covered: np.ndarray) -> list[int]:
        """Returns no crowds: `PanopticMap.separated` makes their pixels void."""
        return []

    def random(self, size: Size, objects: int, num_classes: int, rng: np.random.Generator) -> list[int]:
        """Returns no crowds."""
        return []


def _mapped_id(segment: int, table: np.ndarray, classes: Sequence[Class]) -> int:
    """Returns the panoptic id with the new class; VOID without one. Stuff has one segment, number 0."""
    label = int(table[segment // LABEL_DIVISOR])
    if label < 0:
        return VOID
    return label * LABEL_DIVISOR + (segment % LABEL_DIVISOR if classes[label].thing else 0)


def _unused_id(segment: int, taken: Collection[int]) -> int:
    """Returns an unused panoptic id of the segment's class, from number 999 down to 1; VOID if all are taken."""
    base = segment // LABEL_DIVISOR * LABEL_DIVISOR
    return next((segment for segment in range(base + LABEL_DIVISOR - 1, base, -1) if segment not in taken), VOID)
