"""Masks in flat arrays are read back by pycocotools."""

import numpy as np
import torch
from pycocotools import mask as codes

from densevit.evaluation.mask_records import MaskRecords, code
from densevit.targets import RunLengthMasks


def test_masks_of_images_of_two_sizes_are_coded():
    sizes, rng = ((5, 7), (4, 3)), np.random.default_rng(0)
    masks = [rng.random((2, *size)) < 0.5 for size in sizes]
    found = [{"masks": torch.from_numpy(x), "scores": torch.ones(2), "labels": torch.tensor([1, 0])} for x in masks]
    truths = [{"masks": RunLengthMasks.from_dense(x[:1], x.shape[1:]), "labels": torch.tensor([2])} for x in masks]
    records = MaskRecords.of([1, 2], found, truths)
    assert (records.detections, records.truths, records.sizes.tolist()) == ([0, 2, 4], [0, 1, 2], [[5, 7], [4, 3]])
    assert records.areas.tolist() == records.pixels[::2].tolist() == [x[0].sum() for x in masks]  # by default
    for row, expected in enumerate([*masks[0], *masks[1]]):
        assert np.array_equal(codes.decode(code(sizes[row // 2], records.masks[row])), expected)
