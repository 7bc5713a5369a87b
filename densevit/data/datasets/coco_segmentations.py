"""Instance masks of a COCO json: polygons and run-length codes, validated when read, stored packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densevit.data.datasets.dataset_validation import for_each
from densevit.targets.run_length_masks import RunLengthMasks

_POLYGONS, _RLE = 1, 2
_FARTHEST = 10  # image sides; memory for rasterising grows with the polygon's extent
_UNKNOWN_SIDE = 2**15
_LONGEST_COUNT = 7  # characters of five bits


@dataclass(frozen=True)
class Segmentations:
    """Segmentations of M objects, polygons or run-length codes by `kinds`, packed into one array of bytes."""

    data: np.ndarray  # uint8
    starts: np.ndarray  # (M,) int64
    lengths: np.ndarray  # (M,) int64
    kinds: np.ndarray  # (M,) uint8
    sizes: np.ndarray  # (M, 2) int64, height and width that a run-length code is for, or a polygon needs; 0: any

    def __getitem__(self, chosen: "np.ndarray | slice") -> "Segmentations":
        columns = (self.starts, self.lengths, self.kinds, self.sizes)
        return Segmentations(self.data, *(column[chosen] for column in columns))

    def rasterised(self, sizes: np.ndarray, rows: Sequence[int] | None = None) -> "Segmentations":
        """Converts polygons to run-length codes. sizes: (M, 2), height and width of each object's image. rows: the
        objects that are needed; None: all. Other objects get no code.
        """
        found: list[tuple[bytes, int, tuple[int, int]]] = [(b"", _RLE, (0, 0))] * len(self.starts)
        rows = range(len(found)) if rows is None else rows

        def rasterise(place: int) -> None:
            index = rows[place]
            size = (int(sizes[index, 0]), int(sizes[index, 1]))
            packed = self._packed(index)
            found[index] = (packed if self.kinds[index] == _RLE else _drawn(packed, size), _RLE, size)

        for_each(len(rows), rasterise, "Rasterising masks")
        return pack(found)

    def masks(self, rows: slice, size: tuple[int, int]) -> RunLengthMasks:
        """Returns the masks of the objects of one image; they must be rasterised."""
        lengths = self.lengths[rows]
        first = int(self.starts[rows.start]) if len(lengths) else 0
        return RunLengthMasks.from_codes(self.data[first : first + int(lengths.sum())], lengths, size)

    def _packed(self, index: int) -> bytes:
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()


def _drawn(packed: bytes, size: tuple[int, int]) -> bytes:
    """Returns the run-length code of packed polygons."""
    coordinates = np.frombuffer(packed, np.float64)  # number of polygons, length of each, coordinates
    count = int(coordinates[0])
    ends = 1 + count + np.cumsum(coordinates[1 : 1 + count]).astype(int)
    polygons = [part.tolist() for part in np.split(coordinates[1 + count :], ends[:-1] - 1 - count)]
    code: bytes = rle.merge(rle.frPyObjects(polygons, *size))["counts"]
    return code


def pack(segmentations: Sequence[tuple[bytes, int, tuple[int, int]]]) -> Segmentations:
    """Concatenates the results of `parse` of all objects."""
    lengths = np.array([len(data) for data, _, _ in segmentations], dtype=np.int64)
    return Segmentations(
        data=np.frombuffer(b"".join(data for data, _, _ in segmentations), np.uint8),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        kinds=np.array([kind for _, kind, _ in segmentations], dtype=np.uint8),
        sizes=np.array([size for _, _, size in segmentations], dtype=np.int64).reshape(-1, 2),
    )


def parse(segmentation: Any, size: tuple[int, int]) -> tuple[bytes, int, tuple[int, int]]:
    """Returns an object's segmentation as bytes, its kind, and the size of the image that it needs; 0 for any size.

    size: height and width in the json, which may be those of the image before its EXIF rotation; 0 if it has none.
    Raises ValueError with the reason.
    """
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError(f"is a {type(segmentation).__name__}")
    if not all(isinstance(polygon, list) for polygon in segmentation):
        raise ValueError("is not a list of polygons, which are lists of numbers x, y, x, y, ...")
    polygons = [_polygon(polygon, size) for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        raise ValueError("has no polygon of three points or more")
    needs = (0, 0)
    if 0 not in size and all(map(partial(_is_outside, size=size), polygons)):
        needs = size[::-1]
    if 0 not in needs and all(map(partial(_is_outside, size=needs), polygons)):
        x, y = polygons[0][::2], polygons[0][1::2]
        raise ValueError(
            f"is outside of the image of {size[1]} x {size[0]}: x is {x.min():g} to {x.max():g}, y {y.min():g} to "
            f"{y.max():g}"
        )
    return np.concatenate([[len(polygons)], list(map(len, polygons)), *polygons]).tobytes(), _POLYGONS, needs


def _polygon(numbers: list[Any], size: tuple[int, int]) -> np.ndarray:
    try:
        polygon = np.array(numbers)
        if polygon.dtype.kind not in "iuf" or polygon.ndim != 1:
            raise ValueError
        polygon = polygon.astype(np.float64, copy=False)
    except (ValueError, OverflowError):
        raise ValueError("has a polygon that is not a list of numbers x, y, x, y, ...") from None
    if len(polygon) % 2:
        raise ValueError(f"has a polygon of {len(polygon)} numbers; points are pairs x, y")
    height, width = (side or _UNKNOWN_SIDE for side in size)
    farthest = _FARTHEST * max(height, width)
    if not (polygon.min() >= -farthest and polygon.max() <= farthest):  # False for NaN
        wrong = polygon[~(np.abs(polygon) <= farthest)][0]
        raise ValueError(f"has a polygon with {wrong:g}, far outside of the image of {width} x {height}")
    return polygon


def _is_outside(polygon: np.ndarray, size: tuple[int, int]) -> bool:
    x, y = polygon[::2], polygon[1::2]
    return bool(x.max() < 0 or y.max() < 0 or x.min() > size[1] or y.min() > size[0])


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> tuple[bytes, int, tuple[int, int]]:
    own, counts = segmentation.get("size"), segmentation.get("counts")
    if not (isinstance(own, list) and len(own) == 2 and all(type(side) is int and 0 < side < 2**30 for side in own)):
        raise ValueError(f"is run-length encoded with the size {own!r}; expected [height, width]")
    height, width = own
    if 0 not in size and (height, width) not in (size, size[::-1]):
        raise ValueError(f"is for an image of {width} x {height}, but the image has {size[1]} x {size[0]}")
    if isinstance(counts, str):
        lengths = _decoded(counts)
    elif isinstance(counts, list) and all(type(count) is int and abs(count) < 2**62 for count in counts):
        lengths = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("has run lengths that are neither a list of whole numbers nor a code")
    if (lengths < 0).any():
        raise ValueError(f"has a negative run length, {lengths.min()}")
    covered = sum(lengths.tolist())  # of Python integers, which do not overflow
    if covered != height * width:
        raise ValueError(f"has run lengths of {covered} pixels in total; its size has {height * width}")
    if isinstance(counts, list):
        packed: bytes = rle.frPyObjects({"size": own, "counts": counts}, height, width)["counts"]
    else:
        packed = counts.encode()
    return packed, _RLE, (height, width)


def _decoded(code: str) -> np.ndarray:
    """Decodes the run lengths, (R,) int64, of COCO's compressed code: five bits per character, from the third run on
    as differences to the last but one (pycocotools, maskApi.c, rleFrString)."""
    try:
        digits = np.frombuffer(code.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise ValueError("has a run-length code with a character that is not ASCII") from None
    if not len(digits):
        return digits
    ends = np.flatnonzero(digits & 32 == 0)
    if (digits < 0).any() or (digits > 63).any() or not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("has a run-length code that is damaged")
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= _LONGEST_COUNT:
        raise ValueError("has a run-length code that is damaged")
    place = np.arange(len(digits)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    negative = digits[ends] & 16 != 0
    values[negative] -= 1 << (5 * (ends - starts + 1)[negative])
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values
