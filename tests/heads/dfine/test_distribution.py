"""D-FINE's distributions of distances beside transformers' functions."""

import torch

from densevit.losses.boxes import to_corners
from densevit_heads.dfine.distribution import (
    distances_of_boxes,
    soft_bins,
    weighting_function,
)

CPU, UP = torch.device("cpu"), torch.tensor([0.5])


def test_soft_bins_match_transformers():
    """Also distances outside the bins, on a bin, and those of a reference or a box of no size."""
    from transformers.loss import loss_d_fine

    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(50, 4, generator=generator) * 0.6 + 0.2
    boxes = to_corners(torch.rand(50, 4, generator=generator) * 0.6 + 0.2)
    boxes[0] = to_corners(reference[0])
    reference[1, 2:], boxes[2, 2:] = 0.0, boxes[2, :2]
    index, right, left = loss_d_fine.bbox2distance(reference, boxes, 32, torch.tensor([4.0]), UP)
    values = weighting_function(32, 4.0, CPU)
    bins = soft_bins(distances_of_boxes(reference, boxes, 4.0), values)
    assert torch.equal(bins.left.flatten(), index.long())
    torch.testing.assert_close(bins.right_weight.flatten(), right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(1 - bins.right_weight.flatten(), left, atol=1e-4, rtol=1e-4)
    assert (right == 1).any() and (left == 1).any()  # of distances outside
