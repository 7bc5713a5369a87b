"""Merges the boxes that a detector predicts in overlapping windows into one box per object.

1. A box is cut if it is near an inner edge of its window, at most an eighth of the overlap away. It is dropped if
   another window contains it better: with a margin of at least a quarter of the overlap.
2. Two boxes of one class from different windows agree if their parts in the intersection of the windows have an IoU of
   0.5 or more. Boxes of one window are not compared: a detector may predict overlapping objects.
3. Of agreeing boxes that are not cut, the highest-scoring box is kept (NMS).
4. A cut box is dropped if it agrees with a kept box whose score is at least half of the cut box's score.
5. The remaining cut boxes belong to objects larger than the overlap. Agreeing boxes are joined into their enclosing
   box, with the highest score. Boxes with less than half the score of an agreeing box are dropped first.

SAHI (Akyon et al. 2022) compares all boxes by intersection over the smaller area, which also joins a small object with
a large object behind it. Windows without overlap cannot be compared: objects across their edges stay cut.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from densevit.losses.boxes import overlaps

AGREEMENT = 0.5  # IoU of two boxes in the intersection of their windows
_CUT, _SEEN = 1 / 8, 1 / 4  # distances to an inner edge, as fractions of the overlap
_COMPARABLE = 0.5  # fraction of the higher score


class Merged(NamedTuple):
    """Merged boxes (M, 4) xyxy and their rows (M,) in the input; of joined boxes, the highest-scoring row."""

    rows: Tensor
    boxes: Tensor


def merge_boxes(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    window_of: Tensor,
    windows: Tensor,
    size: tuple[int, int],
    overlap: tuple[int, int],
) -> Merged:
    """Merges the boxes of an image's windows. Returns them by descending score.

    boxes: (N, 4) xyxy in the image's pixels, inside their windows. scores, labels: (N,). window_of: (N,) int64, the
    index of each box's window. windows: (M, 4) xyxy. size: (height, width) of the image. overlap: the overlap of
    adjacent windows in pixels, vertically and horizontally.
    Memory grows with N, the product of the numbers of boxes of two windows, and the number of agreeing pairs.
    """
    cut, better = _cut(boxes, window_of, windows, size, overlap)
    rows = (~better).nonzero()[:, 0]
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    boxes, scores, cut = boxes[rows], scores[rows], cut[rows]
    first, second = _agreeing(boxes, labels[rows], window_of[rows], windows)  # the first have the higher scores

    uncut = ~cut & _not_suppressed(first, second, ~cut)
    comparable = scores[second] >= _COMPARABLE * scores[first]
    explained = torch.zeros_like(cut)
    explained[second[uncut[first]]] = True
    explained[first[uncut[second] & comparable]] = True
    parts = cut & ~explained
    parts[second[parts[first] & parts[second] & ~comparable]] = False
    group = _groups(first, second, parts)
    joined = torch.cat([boxes[:, :2], -boxes[:, 2:]], 1)  # (N, 4); the box around parts is the minimum
    joined = joined.scatter_reduce(0, group[:, None].expand(-1, 4), joined, "amin")
    joined = torch.cat([joined[:, :2], -joined[:, 2:]], 1)
    kept = uncut | (parts & (group == torch.arange(len(group), device=group.device)))
    return Merged(rows[kept], joined[kept])


def _cut(
    boxes: Tensor, window_of: Tensor, windows: Tensor, size: tuple[int, int], overlap: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Which boxes are cut, and which of these another window contains better, (N,) bool each."""
    reach = boxes.new_tensor([overlap[1], overlap[0]] * 2)
    distances = _inner_distances(boxes, windows[window_of], size)  # (N, 4)
    near = distances <= _CUT * reach
    cut, better = near.any(1), torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    needed = distances.masked_fill(near, float("inf")).minimum(_SEEN * reach)
    for window in windows:
        in_window = _inner_distances(boxes, window, size)
        better |= cut & ((in_window >= needed) & (~near | (in_window > distances))).all(1)
    return cut, better


def _inner_distances(boxes: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Distances (..., 4) of boxes to the left, top, right and bottom edges of windows, negative outside.

    Infinite at the image's border, which cuts no box.
    """
    low, high = boxes[..., :2] - windows[..., :2], windows[..., 2:] - boxes[..., 2:]
    limit = boxes.new_tensor([size[1], size[0]])
    border = torch.cat([windows[..., :2] <= 0, windows[..., 2:] >= limit], -1)
    return torch.cat([low, high], -1).masked_fill(border, float("inf"))


def _agreeing(boxes: Tensor, labels: Tensor, window_of: Tensor, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of agreeing rows (P,), (P,), of equal labels and different windows; the lower row first."""
    rows_of = window_of.argsort(stable=True).split(torch.bincount(window_of, minlength=len(windows)).tolist())
    pairs = [boxes.new_zeros(2, 0, dtype=torch.int64)]
    for k, other in _overlapping(windows):
        common = torch.cat([windows[k, :2].maximum(windows[other, :2]), windows[k, 2:].minimum(windows[other, 2:])])
        (a, x), (b, y) = (_within(boxes, rows_of[window], common) for window in (k, other))
        near = (overlaps(x[:, None], y)[0] >= AGREEMENT) & (labels[a][:, None] == labels[b])
        i, j = near.nonzero(as_tuple=True)
        pairs.append(torch.stack([a[i], b[j]]))
    ordered = torch.cat(pairs, 1).sort(0).values
    return ordered[0], ordered[1]


def _overlapping(windows: Tensor) -> list[tuple[int, int]]:
    """The pairs of overlapping windows, in order."""
    pairs = []
    for k in range(len(windows)):
        low = windows[k, :2].maximum(windows[k + 1 :, :2])
        high = windows[k, 2:].minimum(windows[k + 1 :, 2:])
        pairs += [(k, k + 1 + n) for n in (high > low).all(1).nonzero()[:, 0].tolist()]
    return pairs


def _within(boxes: Tensor, rows: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """The rows whose boxes intersect a region, and the intersections (n, 4)."""
    candidates = boxes[rows]
    parts = torch.cat([candidates[:, :2].maximum(region[:2]), candidates[:, 2:].minimum(region[2:])], 1)
    inside = (parts[:, 2:] > parts[:, :2]).all(1)
    return rows[inside], parts[inside]


def _not_suppressed(first: Tensor, second: Tensor, allowed: Tensor) -> Tensor:
    """Greedy NMS among the allowed rows, from agreeing pairs. Returns (N,) bool, False for suppressed rows.

    Repeats the parallel step of Cluster-NMS (Zheng et al. 2021, section 3.3) until convergence, which gives the result
    of the greedy algorithm.
    """
    both = allowed[first] & allowed[second]
    first, second = first[both], second[both]
    kept = torch.ones_like(allowed)
    while True:
        updated = torch.ones_like(kept)
        updated[second[kept[first]]] = False
        if torch.equal(updated, kept):
            return kept
        kept = updated


def _groups(first: Tensor, second: Tensor, parts: Tensor) -> Tensor:
    """Connected components of the parts by agreeing pairs: (N,), the lowest row of each component. Other rows keep
    their index."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = torch.stack([first, second])[:, parts[first] & parts[second]].cpu().numpy()
    graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), (len(parts), len(parts)))
    _, component = connected_components(graph, directed=False)
    _, lowest = np.unique(component, return_index=True)
    return torch.from_numpy(lowest[component]).to(parts.device)
