"""Detects likely errors in label values: 255 that may be a class, and one class for all pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from densevit.data.datasets.label_values import LabelValues
from densevit.errors import listed
from densevit.interfaces import IGNORE

_EXACT = 2**24  # pixels: OpenCV counts in float32
_LISTED = 8  # values in a message
_LARGE = 0.1  # minimum share of 255 in the pixels for which a class without a pixel is an error
_LARGE_BESIDE_ONE = 0.01  # the same if only one class has pixels


def count_pixels(indices: np.ndarray) -> np.ndarray:
    """Returns the number of pixels (256,) int64 of each class index in a map (H, W) uint8."""
    flat, counts = np.ascontiguousarray(indices).reshape(1, -1), np.zeros(IGNORE + 1, np.int64)
    for start in range(0, flat.size, _EXACT):  # OpenCV is four times as fast as numpy's bincount
        part = flat[:, start : start + _EXACT]
        counts += cv2.calcHist([part], [0], None, [len(counts)], [0, len(counts)]).ravel().astype(np.int64)
    return counts


@dataclass(frozen=True)
class LabelShares:
    """Pixel counts of the label maps of a split.

    pixels: (256,), by class index; the last entry counts ignored pixels. where: the data set and its split, for
    messages. is_complete: whether all label maps of the training split are counted; in other splits, and in a sample, a
    rare class may have no pixel.
    """

    values: LabelValues
    pixels: np.ndarray
    where: str
    is_complete: bool = True

    @property
    def absent(self) -> list[str]:
        """The names of the classes without a pixel."""
        return [c.name for c, count in zip(self.values.classes, self.pixels, strict=False) if not count]

    @property
    def present(self) -> list[str]:
        """The names of the classes with pixels."""
        return [c.name for c, count in zip(self.values.classes, self.pixels, strict=False) if count]

    def ambiguous(self) -> str:
        """Returns the error if a class has no pixel while many pixels are 255 and no option names 255; otherwise ""."""
        if not self._is_ambiguous():
            return ""
        return (
            f"{self.where}: no pixel has the class {listed(map(repr, self.absent))}. {self.shares_text}.{self._hint} "
            "If these pixels are to be ignored, set data.ignore.index=255."
        )

    def single_class(self) -> str:
        """Returns the error if one of several classes has all labelled pixels; "" otherwise, and if `ambiguous` returns
        an error."""
        if len(self.present) != 1 or not self.absent or self._is_ambiguous():
            return ""
        return (
            f"{self.where}: all labelled pixels have the class {self.present[0]!r}, so that nothing can be learned. "
            f"{self.shares_text}.{self._hint} Check data.classes and the label maps."
        )

    @property
    def shares_text(self) -> str:
        """The classes and their shares of all pixels, in one line."""
        classes, total = self.values.classes, max(int(self.pixels.sum()), 1)
        order = [i for i in np.argsort(-self.pixels[: len(classes)], kind="stable").tolist() if self.pixels[i]]
        names = [
            classes[i].name if self.values.by_color else f"{classes[i].file_id} = {classes[i].name}" for i in order
        ]
        shares: Sequence[float] = (self.pixels[order] / total).tolist()
        texts = [f"{name} ({share:.2%})" for name, share in zip(names, shares, strict=True)]
        texts = [*texts[:_LISTED], *([f"{len(texts) - _LISTED} more"] if len(texts) > _LISTED else [])]
        if self.pixels[IGNORE]:
            name = "255, ignored" if self.values.ignores_255 else "ignored"
            texts.append(f"{name} ({self.pixels[IGNORE] / total:.2%})")
        return f"Values found: {', '.join(texts)}"

    @property
    def _hint(self) -> str:
        if not self.absent or not self._share_of_255():
            return ""
        first = self.absent[0]
        return (
            f" 255 is ignored, as no class has it. If it is the class {first!r}, give it this id in data.classes: "
            f"{{name: {first}, id: 255}}."
        )

    def _is_ambiguous(self) -> bool:
        several = len(self.present) > 1
        share = self._share_of_255() if self.is_complete or not several else 0.0
        return bool(self.absent and self.present) and share >= (_LARGE if several else _LARGE_BESIDE_ONE)

    def _share_of_255(self) -> float:
        return float(self.pixels[IGNORE] / max(self.pixels.sum(), 1)) if self.values.ignores_255 else 0.0
