"""The transforms `detr`: sizes and crops of the paper."""

import numpy as np

from densevit.data.transforms.detr import DetrTransforms
from densevit.data.transforms.exact_sides import resize_short_side


def test_detr_crop_statistics_match_resize_crop_resize():
    """Against a simulation of the paper's three steps."""
    detr, rng = DetrTransforms(None), np.random.default_rng(0)
    ours = [detr.training_crop(427, 640, rng) for _ in range(6000)]
    ours = [frame for frame in ours if frame.window != (0, 0, 427, 640)]
    theirs = []
    for _ in range(len(ours)):
        short = rng.choice([400, 500, 600])
        h1, w1 = short, int(short * 640 / 427)
        w, h = rng.integers(384, min(w1, 600) + 1), rng.integers(384, min(h1, 600) + 1)
        short = rng.choice(range(480, 801, 32))
        theirs.append((w * 640 / w1, h * 427 / h1, *resize_short_side(int(h), int(w), int(short), 1333)))
    mine = np.array([(f.window[3] - f.window[1], f.window[2] - f.window[0], *f.size) for f in ours])
    assert np.abs(mine.mean(axis=0) / np.mean(theirs, axis=0) - 1).max() < 0.015
    assert np.abs(mine.std(axis=0) / np.std(theirs, axis=0) - 1).max() < 0.05
