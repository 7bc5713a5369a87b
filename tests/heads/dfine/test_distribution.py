"""D-FINE's distributions of distances beside transformers' functions."""

import pytest
import torch

from densevit.losses.boxes import to_corners
from densevit_heads.dfine.distribution import (
    boxes_from_distances,
    distances_of_boxes,
    integral,
    soft_bins,
    weighting_function,
)

CPU, UP = torch.device("cpu"), torch.tensor([0.5])


@pytest.mark.parametrize(("num_bins", "reg_scale"), [(32, 8.0), (4, 1.0)])
def test_weighting_function_and_integral_match_transformers(num_bins: int, reg_scale: float):
    from transformers import DFineConfig
    from transformers.loss import loss_d_fine
    from transformers.models.d_fine.modeling_d_fine import DFineIntegral

    found = weighting_function(num_bins, reg_scale, CPU)
    project = loss_d_fine.weighting_function(num_bins, UP, torch.tensor([reg_scale]))
    torch.testing.assert_close(found, project, atol=1e-6, rtol=1e-5)
    corners = 3 * torch.randn(2, 7, 4 * (num_bins + 1))
    expected = DFineIntegral(DFineConfig(max_num_bins=num_bins))(corners, project)
    torch.testing.assert_close(integral(corners, found), expected, atol=1e-5, rtol=1e-5)


def test_distances_and_boxes_match_transformers():
    from transformers.models.d_fine import modeling_d_fine

    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(20, 4, generator=generator) * 0.5 + 0.1
    distances = torch.randn(20, 4, generator=generator)
    boxes = boxes_from_distances(reference, distances, 4.0)
    torch.testing.assert_close(boxes, modeling_d_fine.distance2bbox(reference, distances, 4.0))
    torch.testing.assert_close(distances_of_boxes(reference, to_corners(boxes), 4.0), distances, atol=1e-4, rtol=1e-4)


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
