"""Merging of boxes from overlapping windows: cases by hand, plain loops, and objects that each window sees in part."""

import itertools

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from densevit.model.box_merging import merge_boxes
from densevit.model.sliding_window import starts

WINDOW, STRIDE = 100, 60  # overlap 40: a box within 5 of an inner edge is cut, and 10 away it is seen well


def windows_of(size, window=WINDOW, stride=STRIDE):
    """(M, 4) xyxy."""
    tops, lefts = (starts(side, window, stride) for side in size)
    ends = [min(window, side) for side in size]
    return torch.tensor([(x, y, x + ends[1], y + ends[0]) for y in tops for x in lefts], dtype=torch.float32)


def merged(size, found, window=WINDOW, stride=STRIDE):
    """The merged (boxes, scores, labels) as lists. found: by window number, lists of (x0, y0, x1, y1, score, label)."""
    rows = [(k, *one) for k, own in found.items() for one in own]
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)
    frames, overlap = windows_of(size, window, stride), window - stride
    window_of, labels = table[:, 0].long(), table[:, 6].long()
    result = merge_boxes(table[:, 1:5], table[:, 5], labels, window_of, frames, size, (overlap, overlap))
    return [
        (*box, round(float(table[row, 5]), 3), int(labels[row]))
        for row, box in zip(result.rows.tolist(), result.boxes.tolist(), strict=True)
    ]


def seen(size, objects, window=WINDOW, stride=STRIDE):
    """What each window sees of objects (x0, y0, x1, y1, score, label): the parts inside it."""
    found = {}
    for k, (left, top, right, bottom) in enumerate(windows_of(size, window, stride).tolist()):
        parts = [(max(a, left), max(b, top), min(c, right), min(d, bottom), *rest) for a, b, c, d, *rest in objects]
        found[k] = [part for part in parts if part[2] > part[0] and part[3] > part[1]]
    return found


def test_neighbours_of_one_class_stay_apart():
    pairs = [
        [(80, 20, 100, 40), (100, 20, 120, 40)],  # side by side, the seam between them
        [(70, 20, 95, 45), (80, 20, 105, 45)],  # overlapping, IoU 15 / 35
        [(85, 20, 115, 50), (85, 38, 115, 68)],
        [(65, 20, 95, 50), (75, 30, 85, 40)],  # a small one in front of a large one
        [(20, 20, 130, 50), (20, 40, 130, 70)],  # larger than the overlap
    ]
    for pair in pairs:
        objects = [(*box, score, 0) for box, score in zip(pair, (0.9, 0.8), strict=True)]
        assert merged((160, 160), seen((160, 160), objects)) == objects


def iou(x, y):
    w, h = min(x[2], y[2]) - max(x[0], y[0]), min(x[3], y[3]) - max(x[1], y[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((x[2] - x[0]) * (x[3] - x[1]) + (y[2] - y[0]) * (y[3] - y[1]) - w * h)


def by_loops(boxes, scores, labels, window_of, windows, size, overlap):
    """The five rules, box by box. Returns {row: box}."""

    def distances(box, window):
        inner = [window[0] > 0, window[1] > 0, window[2] < size[1], window[3] < size[0]]
        d = [box[0] - window[0], box[1] - window[1], window[2] - box[2], window[3] - box[3]]
        return [x if edge else np.inf for x, edge in zip(d, inner, strict=True)]

    def better(d, other):
        return all(
            o >= overlap / 4 if x <= overlap / 8 else o >= min(x, overlap / 4) for x, o in zip(d, other, strict=True)
        )

    def agree(i, j):
        a, b = windows[window_of[i]], windows[window_of[j]]
        if window_of[i] == window_of[j] or labels[i] != labels[j]:
            return False
        x, y = (
            (max(c[0], a[0], b[0]), max(c[1], a[1], b[1]), min(c[2], a[2], b[2]), min(c[3], a[3], b[3]))
            for c in (boxes[i], boxes[j])
        )
        return all(z[2] > z[0] and z[3] > z[1] for z in (x, y)) and iou(x, y) >= 0.5

    own = [distances(box, windows[k]) for box, k in zip(boxes, window_of, strict=True)]
    cut = [min(d) <= overlap / 8 for d in own]
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    order = [
        i for i in order if not (cut[i] and any(better(own[i], distances(boxes[i], window)) for window in windows))
    ]
    whole = []
    for i in order:
        if not cut[i] and not any(agree(i, j) for j in whole):
            whole.append(i)
    parts = [i for i in order if cut[i] and not any(agree(i, j) and scores[j] >= scores[i] / 2 for j in whole)]
    parts = [i for i in parts if not any(agree(i, j) and scores[i] < scores[j] / 2 for j in parts)]
    result = {i: boxes[i] for i in whole}
    if parts:
        near = [(a, b) for a, b in itertools.combinations(range(len(parts)), 2) if agree(parts[a], parts[b])]
        a, b = np.array(near).reshape(-1, 2).T
        _, groups = connected_components(coo_matrix((np.ones(len(near)), (a, b)), (len(parts),) * 2), directed=False)
        for group in range(groups.max() + 1):
            members = [parts[n] for n in np.flatnonzero(groups == group)]
            own = np.array([boxes[i] for i in members])
            result[members[0]] = (*own[:, :2].min(0).tolist(), *own[:, 2:].max(0).tolist())
    return result


@pytest.mark.parametrize("seed", range(3))
def test_merging_equals_plain_loops_on_noisy_boxes(seed):
    rng = np.random.default_rng(seed)
    size, stride = ((170, 250), 60) if seed % 2 else ((200, 130), 30)
    objects = []
    for _ in range(25):
        h, w = np.exp(rng.uniform(np.log(4), np.log(120), 2))
        x, y = rng.uniform(0, size[1]), rng.uniform(0, size[0])
        objects.append((x, y, min(x + w, size[1]), min(y + h, size[0]), 0.0, int(rng.integers(2))))
    windows = windows_of(size, stride=stride)
    rows = []
    for k, own in seen(size, objects, stride=stride).items():
        for *box, _, label in own * 2:  # two boxes of different scores for each part
            box = np.array(box) + rng.normal(0, 1.5, 4)
            left, top, right, bottom = windows[k].tolist()
            box = np.clip(box, (left, top, left, top), (right, bottom, right, bottom))
            rows.append((k, *np.float32(box).tolist(), float(np.float32(rng.uniform(0, 1))), label))
    table = torch.tensor(rows, dtype=torch.float32)
    arguments = (table[:, 1:5], table[:, 5], table[:, 6].long(), table[:, 0].long(), windows)
    overlap = WINDOW - stride
    found = merge_boxes(*arguments, size, (overlap, overlap))
    expected = by_loops(*(x.tolist() for x in arguments), size, overlap)
    assert len(expected) > 20
    assert dict(zip(found.rows.tolist(), map(tuple, found.boxes.tolist()), strict=True)) == {
        row: tuple(np.float32(box).tolist()) for row, box in expected.items()
    }
    order = table[found.rows, 5]
    assert torch.equal(order, order.sort(descending=True).values)
