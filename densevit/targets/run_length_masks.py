"""Instance masks of an image as run lengths, which are cropped, flipped and resized without decoding.

Masks of targets keep this form from the data set to losses, evaluators and files. As (N, H, W) bool, 100 masks of
1333 x 800 pixels take 107 MB; their run lengths take less than 1 MB.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from densevit.interfaces import Size, Window
from densevit.targets.run_length_codes import decode_counts


@dataclass(frozen=True, eq=False)
class RunLengthMasks:
    """N masks of H x W pixels, as R vertical runs of pixels, each in one column.

    size: (H, W). count: N. owner: (R,), the mask of each run. column: (R,). top, bottom: (R,), the first row of a run
    and the row after its last row. All int32, in any order; runs of the same mask do not overlap.

    `masks[keep]` selects masks by a slice, or an array of indices or bools. Iteration yields masks (H, W) bool;
    `np.asarray` and `to(device)` return (N, H, W) bool, and `codes()` COCO's run-length codes.

    Example:
        >>> import numpy as np
        >>> masks = densevit.RunLengthMasks.from_dense([np.eye(4, dtype=bool)], size=(4, 4))
        >>> masks.boxes().tolist(), masks.areas().tolist()
        ([[0.0, 0.0, 4.0, 4.0]], [4])
    """

    size: Size
    count: int
    owner: np.ndarray
    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray

    ndim = 3

    @classmethod
    def from_codes(cls, codes: Sequence[bytes], size: Size) -> "RunLengthMasks":
        """Decodes COCO's compressed codes, the `counts` of each mask. They must be valid and of this size."""
        lengths = np.array(list(map(len, codes)), np.int64)
        counts, number = decode_counts(np.frombuffer(b"".join(codes), np.uint8), lengths)
        first = (np.cumsum(number) - number).astype(np.int32)
        masked = number // 2  # runs of background and mask alternate
        owner = np.repeat(np.arange(len(number), dtype=np.int32), masked)
        inside = (first + 1 - 2 * (np.cumsum(masked) - masked)).astype(np.int32).take(owner)
        inside += np.arange(0, 2 * len(owner), 2, dtype=np.int32)
        ends = np.cumsum(counts, dtype=np.int32)  # may overflow; differences are still correct
        before = np.append(np.int32(0), ends)[first]  # (N,), the sum at the end of the previous code
        lengths, ends = counts.take(inside), ends.take(inside)
        ends -= before.take(owner)
        return cls.from_runs(size, len(number), owner, ends - lengths, ends)

    @classmethod
    def from_runs(
        cls, size: Size, count: int, owner: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> "RunLengthMasks":
        """Converts runs of pixels, numbered column by column. owner, starts, ends: (R,) int32."""
        height = size[0]
        first, last = starts // height, (ends - 1) // height
        if np.array_equal(first, last) and (ends > starts).all():  # each in one column
            begin = first * np.int32(height)
            return cls(size, count, owner, first, starts - begin, ends - begin)
        columns = np.where(ends > starts, last - first + 1, 0)
        column, row = _counted(first, columns)  # (S,) each: the column of each part, and its run
        begin = column * np.int32(height)
        top, bottom = np.maximum(starts[row] - begin, 0), np.minimum(ends[row] - begin, height)
        return cls(size, count, owner[row], column, top, bottom)

    @classmethod
    def from_dense(cls, masks: Iterable[np.ndarray], size: Size) -> "RunLengthMasks":
        """Encodes masks (H, W) bool or uint8, one at a time."""
        runs = [np.zeros((3, 0), np.int32)]
        for number, mask in enumerate(masks):
            values, starts, ends = _runs_of(mask)
            inside = np.flatnonzero(values)
            runs.append(np.stack([np.full(len(inside), number, np.int32), starts[inside], ends[inside]]))
        return cls.from_runs(size, len(runs) - 1, *np.concatenate(runs, axis=1))

    @classmethod
    def from_ids(cls, ids: np.ndarray, chosen: np.ndarray) -> "RunLengthMasks":
        """Returns the masks of regions in a map of ids (H, W), such as a panoptic map. chosen: (N,), distinct ids."""
        values, starts, ends = _runs_of(ids.astype(np.int32, copy=False))
        inside, order = np.flatnonzero(np.isin(values, chosen)), np.argsort(chosen)
        owner = order[np.searchsorted(chosen, values[inside], sorter=order)].astype(np.int32)
        return cls.from_runs(ids.shape, len(chosen), owner, starts[inside], ends[inside])

    # ---- as a sequence and as an array ----

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.count, *self.size)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._decoded(np.zeros(self.size, bool) for _ in range(self.count))

    def __getitem__(self, chosen: Any) -> "RunLengthMasks":
        indices = np.arange(self.count)[chosen]
        new = np.full(self.count, -1, np.int32)
        new[indices] = np.arange(len(indices))
        owner = new.take(self.owner)
        return replace(self._with(owner >= 0, owner=owner), count=len(indices))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._pixels().astype(bool if dtype is None else dtype, copy=False)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """Decodes to (N, H, W) bool on a device, to which only the edges of masks are copied."""
        cpu = torch.device(device).type == "cpu"
        return torch.from_numpy(self._pixels()) if cpu else self._filled(device, non_blocking)

    def _filled(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """Decodes on the device by a cumulative sum over the edges."""
        height, width = self.size
        edges = torch.from_numpy(self.edges()).to(device, non_blocking=non_blocking)
        change = torch.zeros(self.count * height * width + 1, dtype=torch.int8, device=device)
        change.index_add_(0, edges, torch.ones_like(edges, dtype=torch.int8))
        inside = (change[:-1].cumsum(0, dtype=torch.int8) & 1).bool()  # an overflow does not change the parity
        return inside.view(self.count, width, height).transpose(1, 2).contiguous()

    def edges(self) -> np.ndarray:
        """Returns (2R,) ascending int64: a pixel is inside if an odd number of edges are at or before it.

        The pixel at (row, column) of mask n has the number n * H * W + column * H + row, so `searchsorted` tells
        whether a point is inside.
        """
        begin = (self.owner.astype(np.int64) * self.size[1] + self.column) * self.size[0]
        edges = np.concatenate([begin + self.top, begin + self.bottom])
        edges.sort(kind="stable")
        return edges

    def areas(self) -> np.ndarray:
        """Returns (N,), the number of pixels of each mask."""
        return np.bincount(self.owner, self.bottom - self.top, self.count).astype(np.int64)

    def boxes(self) -> np.ndarray:
        """Returns (N, 4) float32 xyxy around each mask, in pixel edges; zeros for empty masks."""
        values = [self.column, self.top, self.column + 1, self.bottom]
        low = np.full((self.count, 2), np.iinfo(np.int32).max, np.int32)
        high = np.zeros((self.count, 2), np.int32)
        for axis in (0, 1):
            np.minimum.at(low[:, axis], self.owner, values[axis])
            np.maximum.at(high[:, axis], self.owner, values[2 + axis])
        low[self.areas() == 0] = 0
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def union(self) -> np.ndarray:
        """Returns (H, W) bool, the union of all masks."""
        change = np.zeros((self.size[1], self.size[0] + 1), np.int32)
        np.add.at(change, (self.column, self.top), 1)
        np.subtract.at(change, (self.column, self.bottom), 1)
        return np.ascontiguousarray(change[:, :-1].cumsum(axis=1).T > 0)

    def codes(self) -> list[bytes]:
        """Returns COCO's compressed codes, the `counts` of each mask."""
        from pycocotools import mask as rle  # late: it takes time to import

        if not self.count:
            return []
        height, width = self.size
        bounds = self.edges().reshape(-1, 2)  # (R, 2): first pixel, and the pixel after the last
        owner = bounds[:, 0] // (height * width)
        begins = np.ones(len(bounds), bool)  # False for a run that continues the run at the end of the previous column
        begins[1:] = (bounds[1:, 0] != bounds[:-1, 1]) | (owner[1:] != owner[:-1])
        bounds = np.stack([bounds[begins, 0], bounds[np.roll(begins, -1), 1]], axis=1)
        parts = np.split(bounds, np.searchsorted(owner[begins], np.arange(1, self.count)))
        counts = [
            np.diff(part.ravel() - number * height * width, prepend=0, append=height * width)
            for number, part in enumerate(parts)
        ]
        raw = [{"size": [height, width], "counts": c[: -1 if c[-1] == 0 else None]} for c in counts]
        return [code["counts"] for code in rle.frPyObjects(raw, height, width)]

    def _pixels(self) -> np.ndarray:
        """Decodes to (N, H, W) bool."""
        pixels = np.zeros(self.shape, bool)
        for _ in self._decoded(pixels):
            pass
        return pixels

    def _decoded(self, empty: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Fills N empty masks (H, W) and yields them; writes only inside the bounding box of each."""
        order = np.argsort(self.owner, kind="stable")
        ends = np.cumsum(np.bincount(self.owner, minlength=self.count))
        for mask, rows in zip(empty, np.split(order, ends[:-1]), strict=False):
            if len(rows):
                column, top, bottom = self.column[rows], self.top[rows], self.bottom[rows]
                x, y = column.min(), top.min()
                change = np.zeros((column.max() + 1 - x, bottom.max() + 1 - y), np.int8)
                change[column - x, top - y] += 1
                change[column - x, bottom - y] -= 1
                inside = change[:, :-1].cumsum(axis=1, dtype=np.int8)
                mask[y : y + inside.shape[1], x : x + len(inside)] = inside.T
            yield mask

    # ---- geometry ----

    def hflip(self) -> "RunLengthMasks":
        return replace(self, column=self.size[1] - 1 - self.column)

    def crop(self, window: Window) -> "RunLengthMasks":
        top, left, bottom, right = window
        if window == (0, 0, *self.size):
            return self
        upper, lower = np.clip(self.top - top, 0, bottom - top), np.clip(self.bottom - top, 0, bottom - top)
        inside = (self.column >= left) & (self.column < right) & (lower > upper)
        cropped = self._with(inside, column=self.column - left, top=upper, bottom=lower)
        return replace(cropped, size=(bottom - top, right - left))

    def resize(self, size: Size) -> "RunLengthMasks":
        """Resizes by nearest neighbour, as OpenCV's INTER_NEAREST_EXACT."""
        if size == self.size:
            return self
        rows, columns = (_first_at(old, new) for old, new in zip(self.size, size, strict=True))
        first, copies = columns.take(self.column), np.diff(columns).take(self.column)
        top, bottom = rows.take(self.top), rows.take(self.bottom)
        copies *= bottom > top
        column, row = _counted(first, copies)
        return RunLengthMasks(size, self.count, self.owner.take(row), column, top.take(row), bottom.take(row))

    def without(self, covered: np.ndarray) -> "RunLengthMasks":
        """Removes covered pixels from the masks. covered: (h, w) bool, at the upper left of the image."""
        height, (h, w) = self.size[0], covered.shape
        if not covered.any():
            return self
        gone = RunLengthMasks.from_dense(covered[None], (h, w))
        bounds = np.stack([gone.top, gone.bottom], axis=1) + gone.column[:, None] * height  # ascending
        starts, ends = np.append(0, bounds[:, 1]), np.append(bounds[:, 0], height * self.size[1])  # the gaps between
        begin, end = self.column * height + self.top, self.column * height + self.bottom
        first = np.searchsorted(ends, begin, side="right")
        gap, row = _counted(first.astype(np.int32), np.maximum(np.searchsorted(starts, end) - first, 0))
        top = np.maximum(starts[gap], begin[row]) - self.column[row] * height
        bottom = np.minimum(ends[gap], end[row]) - self.column[row] * height
        values = self.owner[row], self.column[row], top.astype(np.int32), bottom.astype(np.int32)
        rest = RunLengthMasks(self.size, self.count, *values)
        return rest._with(bottom > top)

    def joined(self, appended: "RunLengthMasks") -> "RunLengthMasks":
        """Appends masks of another image of this size or smaller, aligned at the upper left corner."""
        runs = [
            np.concatenate([getattr(self, name), getattr(appended, name) + shift])
            for name, shift in (("owner", np.int32(self.count)), ("column", 0), ("top", 0), ("bottom", 0))
        ]
        return RunLengthMasks(self.size, self.count + appended.count, *runs)

    def rotate(self, matrix: np.ndarray) -> "RunLengthMasks":
        """Rotates by nearest neighbour with OpenCV's warpAffine, one mask at a time."""
        height, width = self.size
        turned = (
            cv2.warpAffine(mask.view(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST) for mask in self
        )
        return RunLengthMasks.from_dense(turned, self.size)

    def _with(self, keep: np.ndarray, **changes: np.ndarray) -> "RunLengthMasks":
        """Selects runs by keep, (R,) bool, and replaces fields."""
        values = {name: changes.get(name, getattr(self, name)) for name in ("owner", "column", "top", "bottom")}
        rows = np.flatnonzero(keep)
        return replace(self, **{name: value.take(rows) for name, value in values.items()})


def _runs_of(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns values, first pixels and ends of the runs of equal values in a map (H, W), numbered column by column."""
    ids = np.asarray(ids)
    values = cv2.transpose(ids.view(np.uint8) if ids.dtype == bool else ids).ravel()
    starts = np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1).astype(np.int32)
    return values[starts], starts, np.append(starts[1:], np.int32(values.size))


def _first_at(old: int, new: int) -> np.ndarray:
    """Returns (old + 1,): for each of `old` pixels, the first of `new` pixels whose source is this pixel or a later
    one."""
    positions = np.arange(old, dtype=np.float32)[None]
    taken = cv2.resize(positions, (new, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]  # (new,), ascending
    return np.searchsorted(taken, np.arange(old + 1, dtype=np.float32)).astype(np.int32)


def _counted(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the ranges first[i], first[i] + 1, ... of counts[i] numbers, int32; also returns i of each
    number."""
    if counts.max(initial=0) <= 1:
        row = np.flatnonzero(counts)
        return first[row], row
    offsets = first - np.cumsum(counts, dtype=np.int32) + counts.astype(np.int32)
    row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return offsets.take(row) + np.arange(len(row), dtype=np.int32), row
