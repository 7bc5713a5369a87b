"""Reads the segment ids of COCO's panoptic PNGs, and finds segments in them."""

import os
from dataclasses import dataclass

import cv2
import numpy as np

from densevit.data.io.label_files import read_label


def read_segment_ids(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns (H, W) int32: R + 256 G + 65536 B of an RGB file, or the values of a grey or indexed one; 0 = void.

    Raises DataError for the files that `read_label` refuses.
    """
    pixels = read_label(path)
    if pixels.ndim == 2:
        return pixels.astype(np.int32)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA).view("<i4")[..., 0] & 0xFFFFFF


@dataclass(frozen=True)
class Runs:
    """The R horizontal runs of equal ids in a map (H, W), in row-major order; a run ends at the end of its row.

    ids, starts, lengths: (R,); starts are positions in the flattened map.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    size: tuple[int, int]

    @classmethod
    def of(cls, ids: np.ndarray) -> "Runs":
        """Returns the runs of a map (H, W)."""
        begins = np.ones(ids.shape, bool)
        np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        return cls(ids.ravel()[starts], starts, np.diff(starts, append=ids.size), ids.shape)

    def filled(self, values: np.ndarray) -> np.ndarray:
        """Returns a map (H, W) from one value per run, (R,)."""
        return np.repeat(values, self.lengths).reshape(self.size)

    def areas(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Returns the areas of segments in pixels, (count,) int64. rows: (R,), the segment of each run."""
        return np.bincount(rows, self.lengths, count).astype(np.int64)

    def boxes(self, rows: np.ndarray, count: int) -> np.ndarray:
        """Returns tight boxes of segments, (count, 4) int32 xyxy; empty segments have no area.

        rows: (R,), the segment of each run.
        """
        y, left = np.divmod(self.starts, self.size[1])
        boxes = np.tile(np.array([self.size[1], self.size[0], 0, 0], np.int32), (count, 1))
        for column, (least, values) in enumerate(((1, left), (1, y), (0, left + self.lengths), (0, y + 1))):
            (np.minimum if least else np.maximum).at(boxes[:, column], rows, values.astype(np.int32))
        return boxes
