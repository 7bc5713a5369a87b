"""The target type of label maps: one class per pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densevit.errors import DataError
from densevit.interfaces import IGNORE, Class, Drawing, Size
from densevit.targets.object_targets import check_range
from densevit.targets.pixel_maps import MAX_PNG_VALUE, PixelMap, painted

MIN_IGNORED = 0.01  # share of ignored pixels from which masks of 0 and 255 are probably masks of two classes
TORCH_IGNORE = -100  # the default ignore_index of torch's losses


class LabelMap(PixelMap):
    """(H, W) uint8 class indices; 255 = ignore. Losses also take other integers, in which torch's -100 is ignored."""

    max_classes = IGNORE
    kinds = "u"
    dtype = torch.uint8
    fill = IGNORE
    task: str | None = "segmentation"

    def check(self, value: Any, size: Size) -> None:
        if value.shape == size and value.dtype != np.uint8:
            raise DataError(f"has the type {value.dtype}; expected uint8.")
        super().check(value, size)

    def check_classes(self, value: np.ndarray, num_classes: int) -> None:
        following = value + np.uint8(1)  # 0 for IGNORE, so that one comparison is enough
        if following.max(initial=0) <= num_classes:
            return
        wrong = (value >= num_classes) & (value != IGNORE)
        raise DataError(
            f"has class {value[wrong].max()}, and {wrong.sum():,} pixels of no class; expected 0 to {num_classes - 1}, "
            f"or {IGNORE} = ignored."
        )

    def implausible(self, values: Sequence[tuple[np.ndarray, Size]], num_classes: int) -> str:
        pixels = np.sum([np.bincount(value.ravel(), minlength=IGNORE + 1) for value, _ in values], axis=0)
        only_zero_and_ignored = pixels[0] > 0 and pixels[0] + pixels[IGNORE] == pixels.sum()
        share = pixels[IGNORE] / max(pixels.sum(), 1)
        if num_classes != 2 or not only_zero_and_ignored or share < MIN_IGNORED:
            return ""
        return (
            f"has only the values 0 and {IGNORE} ({share:.0%} of the pixels), and {IGNORE} is ignored, so that only "
            f"class 0 would be learned. Fix: masks // {IGNORE} for masks of two classes; pixels that are to be ignored "
            f"can be {TORCH_IGNORE} in int64 tensors for `loss`."
        )

    def from_integers(self, value: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Converts a tensor of int64 to uint8, on any device and without waiting for it; -100 becomes 255.

        Returns the map, in which pixels of no class are 255 too, and a mask of these pixels.
        """
        is_class = (value >= 0) & (value < (num_classes or IGNORE))
        is_ignored = (value == IGNORE) | (value == TORCH_IGNORE)
        wrong = ~(is_class | is_ignored)
        return value.masked_fill(~is_class, IGNORE).to(torch.uint8), wrong

    def paste(self, value: np.ndarray, pasted: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Covered pixels take the pasted image's classes."""
        return painted(value, pasted, covered)

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
        """Returns a palette PNG whose pixels are the classes' file ids, or a 16-bit grey PNG for ids above 255.

        Pixels of no class are 255, or 65535 in 16 bits. If there are such pixels and a class has the id 255, the PNG
        has 16 bits.
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
            raise DataError(
                f"has pixels of no class, which are {none} in files, but {none} is the id of a class. Fix: change "
                "that id."
            )
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
        """Returns random classes; the upper quarter is ignored."""
        values = np.full(size, IGNORE, np.uint8)
        if objects:
            values[size[0] // 4 :] = rng.integers(max(num_classes, 1), size=size)[size[0] // 4 :]
        return values


def _file_ids(classes: Sequence[Class]) -> np.ndarray:
    """Returns the classes' file ids, (K,) uint8, or uint16 if necessary. Raises DataError if a label map cannot hold
    them."""
    check_distinct_ids(classes)
    for c in classes:
        if not 0 <= c.file_id <= MAX_PNG_VALUE:
            raise DataError(f"Class {c.name!r} has the file id {c.file_id}; label maps hold 0 to {MAX_PNG_VALUE}.")
    ids = [c.file_id for c in classes]
    return np.array(ids, np.uint8 if max(ids) <= 255 else np.uint16)


def check_distinct_ids(classes: Sequence[Class]) -> None:
    """Raises DataError if classes have the same file id."""
    ids: dict[int, str] = {}
    for c in classes:
        if c.file_id in ids:
            raise DataError(
                f"The classes {ids[c.file_id]!r} and {c.name!r} have the same file id, {c.file_id}, and files of "
                "predictions could not distinguish them. Fix: give each class its own id in the data set."
            )
        ids[c.file_id] = c.name
