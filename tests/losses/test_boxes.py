"""Overlaps of boxes and their conversions beside torchvision's, with boxes of no size."""

import pytest
import torch

from densevit.losses.boxes import overlaps, to_centres, to_corners


def random_boxes(count: int) -> torch.Tensor:
    low = torch.rand(count, 2)
    return torch.cat([low, low + torch.rand(count, 2)], dim=1)


def test_overlaps_of_all_pairs_match_torchvision():
    from torchvision.ops import box_iou, generalized_box_iou

    a, b = random_boxes(40), random_boxes(30)
    iou, giou = overlaps(a[:, None], b)
    torch.testing.assert_close(iou, box_iou(a, b))
    torch.testing.assert_close(giou, generalized_box_iou(a, b))
    torch.testing.assert_close(overlaps(a[:30], b)[0], iou.diagonal())  # of pairs


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),  # a quarter of each
        ([0, 0, 1, 1], [0, 0, 1, 1], 1, 1),
        ([0, 0, 1, 1], [1, 0, 2, 1], 0, 0),  # they touch
        ([0, 0, 1, 1], [3, 0, 4, 1], 0, -0.5),  # half of the hull is between them
        ([0, 0, 0, 1], [0, 0, 1, 1], 0, 0),  # a line on the edge
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1], 0, 0),  # a point inside: the hull is the box
        ([2, 2, 2, 2], [2, 2, 2, 2], 0, 0),  # twice the same point
        ([0, 0, 0, 0], [1, 1, 1, 1], 0, -1),  # two points
    ],
)
def test_overlaps_by_hand(a: list[float], b: list[float], iou: float, giou: float):
    found = overlaps(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    assert [x.item() for x in found] == pytest.approx([iou, giou], abs=1e-6)


def test_gradients_match_torchvision_and_are_finite_for_points():
    from torchvision.ops import generalized_box_iou

    a = random_boxes(20).requires_grad_()
    b = random_boxes(20)
    (own,) = torch.autograd.grad(overlaps(a, b)[1].sum(), a)
    (theirs,) = torch.autograd.grad(generalized_box_iou(a, b).diagonal().sum(), a)
    torch.testing.assert_close(own, theirs)

    points = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [0.2, 0.2, 0.2, 0.8]], requires_grad=True)
    (gradient,) = torch.autograd.grad(overlaps(points, torch.tensor([0.2, 0.2, 0.8, 0.8]))[1].sum(), points)
    assert gradient.isfinite().all()


def test_conversions_match_torchvision():
    from torchvision.ops import box_convert

    boxes = random_boxes(10)
    torch.testing.assert_close(to_centres(boxes), box_convert(boxes, "xyxy", "cxcywh"))
    torch.testing.assert_close(to_corners(to_centres(boxes)), boxes)
