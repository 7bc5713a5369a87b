"""Segmentations of a COCO json, validated and packed at the start, decoded to masks when their image is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as rle

from densevit.targets.run_length_codes import decode_counts
from densevit.targets.run_length_masks import RunLengthMasks

Packed = tuple[bytes, int, tuple[int, int]]  # bytes, encoding, and the size of the image

_POLYGONS, _RLE = 1, 2
_FARTHEST = 10  # image sides; memory for rasterising grows with the polygon's extent
_UNKNOWN_SIDE = 2**15
_CODE = re.compile("(?:[P-o]{0,6}[0-O])*")  # each run length is up to 7 characters, five bits in each, the last below P
_MOST_PIXELS = 2**31  # run lengths are int32
_CHARACTERS = 2**20  # of run-length codes that are decoded together


@dataclass(frozen=True)
class Segmentations:
    """Segmentations of M objects, each polygons or a run-length code, packed into one array of bytes."""

    data: np.ndarray  # uint8
    starts: np.ndarray  # (M,) int64
    lengths: np.ndarray  # (M,) int64
    encodings: np.ndarray  # (M,) uint8
    sizes: np.ndarray  # (M, 2) int64, height and width of a run-length code; 0 for polygons, which fit any size

    def __getitem__(self, chosen: "np.ndarray | slice") -> "Segmentations":
        columns = (self.starts, self.lengths, self.encodings, self.sizes)
        return Segmentations(self.data, *(column[chosen] for column in columns))

    def copied(self) -> "Segmentations":
        """Returns a copy without the bytes of objects that were not chosen."""
        data = b"".join(map(self._packed, range(len(self.lengths))))
        return replace(self, data=np.frombuffer(data, np.uint8), starts=np.cumsum(self.lengths) - self.lengths)

    def masks(self, rows: slice, size: tuple[int, int]) -> RunLengthMasks:
        """Returns the masks of the objects of one image; rasterises their polygons. size: (h, w) of the image."""
        codes = [
            self._packed(index) if self.encodings[index] == _RLE else _drawn(self._packed(index), size)
            for index in range(rows.start, rows.stop)
        ]
        return RunLengthMasks.from_codes(codes, size)

    def bounds(self) -> np.ndarray:
        """Returns the bounds of all masks, (M, 4) float64, xyxy in pixels; 0 for a run-length code without pixels."""
        codes, polygons = (np.flatnonzero(self.encodings == encoding) for encoding in (_RLE, _POLYGONS))
        objects = [{"size": self.sizes[i].tolist(), "counts": self._packed(i)} for i in codes.tolist()]
        numbers = np.frombuffer(b"".join(map(self._packed, polygons.tolist())), np.int32)
        sizes = self.lengths[polygons] // numbers.itemsize
        starts = np.cumsum(sizes) - sizes
        is_coordinate = np.arange(len(numbers)) - np.repeat(starts, sizes) > np.repeat(numbers[starts], sizes)
        points, counts = numbers[is_coordinate].reshape(-1, 2) / 5, (sizes - 1 - numbers[starts]) // 2
        limits = [limit.reduceat(points, np.cumsum(counts) - counts) for limit in (np.minimum, np.maximum)]
        bounds = np.zeros((len(self.lengths), 4))
        bounds[codes], bounds[polygons] = np.reshape(rle.toBbox(objects), (-1, 4)), np.concatenate(limits, axis=1)
        bounds[codes, 2:] += bounds[codes, :2]
        return bounds

    def _packed(self, index: int) -> bytes:
        start = int(self.starts[index])
        return self.data[start : start + int(self.lengths[index])].tobytes()


def _packed_polygons(polygons: Sequence[np.ndarray]) -> bytes:
    """Packs polygons as int32: their number, the length of each, and the coordinates in fifths of a pixel, as
    pycocotools rounds them for rasterising (maskApi.c, rleFrPoly)."""
    fifths = (5 * np.concatenate(polygons) + 0.5).astype(np.int32)  # towards zero
    return np.concatenate([[len(polygons)], list(map(len, polygons)), fifths]).astype(np.int32).tobytes()


def _drawn(packed: bytes, size: tuple[int, int]) -> bytes:
    """Returns the run-length code of packed polygons."""
    numbers = np.frombuffer(packed, np.int32)
    count = int(numbers[0])
    fifths = numbers[1 + count :]
    coordinates = (fifths - (fifths < 0)) / 5  # pycocotools rounds them to the same fifths
    codes = rle.frPyObjects(np.split(coordinates, np.cumsum(numbers[1:count])), *size)
    return (codes[0] if count == 1 else rle.merge(codes))["counts"]


def pack(segmentations: Sequence[Packed]) -> Segmentations:
    """Concatenates the segmentations of all objects."""
    lengths = np.array([len(data) for data, _, _ in segmentations], dtype=np.int64)
    return Segmentations(
        data=np.frombuffer(b"".join(data for data, _, _ in segmentations), np.uint8),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        encodings=np.array([encoding for _, encoding, _ in segmentations], dtype=np.uint8),
        sizes=np.array([size for _, _, size in segmentations], dtype=np.int64).reshape(-1, 2),
    )


def packed_segmentation(segmentation: Any, size: tuple[int, int]) -> Packed:
    """Returns an object's segmentation as bytes, its encoding, and the size of the image that it needs; 0 for any size.

    size: height and width of the object's image in the json, perhaps before its EXIF rotation; 0 if unknown. Raises
    ValueError with the reason why it is invalid. Run-length codes are not decoded here, but by `wrong_codes`.
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
    return _packed_polygons(polygons), _POLYGONS, (0, 0)


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


def _run_lengths(segmentation: dict[str, Any], size: tuple[int, int]) -> Packed:
    code_size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(code_size, list) or [type(side) for side in code_size] != [int, int] or min(code_size) < 1:
        raise ValueError(f"is run-length encoded with the size {code_size!r}; expected [height, width]")
    height, width = code_size
    if height * width >= _MOST_PIXELS:
        raise ValueError(f"is for an image of {width} x {height}; expected less than {_MOST_PIXELS} pixels")
    if 0 not in size and (height, width) not in (size, size[::-1]):
        raise ValueError(f"is for an image of {width} x {height}, but the image has {size[1]} x {size[0]}")
    if isinstance(counts, str):
        if not _CODE.fullmatch(counts):
            raise ValueError("has a run-length code that is damaged")
        return counts.encode(), _RLE, (height, width)
    if not (isinstance(counts, list) and all(type(count) is int for count in counts)):
        raise ValueError("has run lengths that are neither a list of whole numbers nor a code")
    lowest, covered = min(counts, default=0), sum(counts)
    if lowest < 0 or covered != height * width:
        raise ValueError(_wrong_counts(lowest, covered, height * width))
    packed: bytes = rle.frPyObjects({"size": code_size, "counts": counts}, height, width)["counts"]
    return packed, _RLE, (height, width)


def wrong_codes(packed: Segmentations) -> dict[int, str]:
    """Returns the reasons why run-length codes are invalid, by position. Decodes codes in batches, which is faster."""
    reasons = {}
    codes = np.flatnonzero(packed.encodings == _RLE)
    for rows in np.array_split(codes, packed.lengths[codes].sum() // _CHARACTERS + 1):
        characters = np.frombuffer(b"".join(map(packed._packed, rows.tolist())), np.uint8)
        counts, number = decode_counts(characters, packed.lengths[rows], np.int64)
        covered, lowest = np.zeros((2, len(rows)), np.int64)
        nonempty = np.flatnonzero(number)  # reduceat takes no empty codes
        begin = np.cumsum(number)[nonempty] - number[nonempty]
        covered[nonempty] = np.add.reduceat(np.minimum(counts, _MOST_PIXELS), begin)  # does not overflow
        lowest[nonempty] = np.minimum.reduceat(counts, begin)
        pixels = packed.sizes[rows].prod(axis=1)
        for i in np.flatnonzero((lowest < 0) | (covered != pixels)).tolist():
            reasons[int(rows[i])] = _wrong_counts(lowest[i], covered[i], pixels[i])
    return reasons


def _wrong_counts(lowest: int, covered: int, pixels: int) -> str:
    if lowest < 0:
        return f"has a negative run length, {lowest}"
    return f"has run lengths of {covered} pixels in total; its size has {pixels}"
