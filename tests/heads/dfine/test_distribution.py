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


@pytest.mark.parametrize(("num_bins", "reg_scale"), [(32, 4.0), (32, 8.0), (16, 4.0), (4, 1.0)])
def test_weighting_function_is_equation_3(num_bins: int, reg_scale: float):
    """W(n), which the paper writes with c = 1 / reg_scale, is the distance over reg_scale."""
    from transformers.loss import loss_d_fine

    N, a, c = num_bins, 0.5, 1 / reg_scale
    values = [c - c * (a / c + 1) ** ((N - 2 * n) / (N - 2)) for n in range(1, N // 2)]
    values += [-c + c * (a / c + 1) ** ((2 * n - N) / (N - 2)) for n in range(N // 2, N)]
    expected = torch.tensor([-2 * a, *values, 2 * a])
    found = weighting_function(num_bins, reg_scale, CPU)
    torch.testing.assert_close(found / reg_scale, expected, atol=1e-6, rtol=1e-5)
    theirs = loss_d_fine.weighting_function(num_bins, UP, torch.tensor([reg_scale]))
    torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-5)


def test_integral_is_the_expected_value():
    corners = torch.full((1, 4, 5), -1e4)
    corners[0, 0, 3] = corners[0, 1, 0] = 0.0
    corners[0, 2, 1:3] = 0.0  # two bins with a half each
    corners[0, 3] = 7.0  # all bins alike
    values = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])
    assert integral(corners.flatten(1), values).tolist() == [[1.0, -4.0, -0.5, 0.0]]


def test_no_distance_is_the_reference_and_distances_are_relative_to_its_size():
    reference = torch.tensor([[0.5, 0.4, 0.2, 0.1]])
    torch.testing.assert_close(boxes_from_distances(reference, torch.zeros(1, 4), 4.0), reference)
    moved = boxes_from_distances(reference, torch.tensor([[1.0, 0.0, 0.0, 2.0]]), 4.0)
    expected = torch.tensor([[0.4 - 0.05, 0.35, 0.6, 0.45 + 0.05]])  # a quarter and a half of the size
    torch.testing.assert_close(to_corners(moved), expected)


def test_distances_and_boxes_match_transformers():
    from transformers.models.d_fine import modeling_d_fine

    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(20, 4, generator=generator) * 0.5 + 0.1
    distances = torch.randn(20, 4, generator=generator)
    boxes = boxes_from_distances(reference, distances, 4.0)
    torch.testing.assert_close(boxes, modeling_d_fine.distance2bbox(reference, distances, 4.0))
    torch.testing.assert_close(distances_of_boxes(reference, to_corners(boxes), 4.0), distances, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("degenerate", [False, True])
def test_soft_bins_match_transformers(degenerate: bool):
    """Also distances outside the bins, on a bin, and those of a reference or a box of no size."""
    from transformers.loss import loss_d_fine

    generator = torch.Generator().manual_seed(1)
    reference = torch.rand(50, 4, generator=generator) * 0.6 + 0.2
    boxes = to_corners(torch.rand(50, 4, generator=generator) * 0.6 + 0.2)
    boxes[0] = to_corners(reference[0])
    if degenerate:
        reference[1, 2:], boxes[2, 2:] = 0.0, boxes[2, :2]
    index, right, left = loss_d_fine.bbox2distance(reference, boxes, 32, torch.tensor([4.0]), UP)
    values = weighting_function(32, 4.0, CPU)
    bins = soft_bins(distances_of_boxes(reference, boxes, 4.0), values)
    assert torch.equal(bins.left.flatten(), index.long())
    torch.testing.assert_close(bins.right_weight.flatten(), right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(1 - bins.right_weight.flatten(), left, atol=1e-4, rtol=1e-4)
    assert (right == 1).any() and (left == 1).any()  # of distances outside
    inside = (bins.right_weight > 0) & (bins.right_weight < 1)
    mean = (1 - bins.right_weight) * values[bins.left] + bins.right_weight * values[bins.left + 1]
    torch.testing.assert_close(mean[inside], distances_of_boxes(reference, boxes, 4.0)[inside], atol=1e-4, rtol=1e-4)
