"""The one-to-many loss on all cells, by hand, and what it ignores."""

import pytest
import torch
from torch import Tensor

from densevit.losses.classification import matchability_aware
from densevit.losses.context import LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import Objects
from densevit.losses.task_aligned_assigner import task_aligned

SIDE, K = 4, 3


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, boxes, centres and padding of two maps; half of the second is padding."""
    place = (torch.arange(SIDE) + 0.5) / SIDE
    centres = torch.cartesian_prod(place, place).flip(-1).expand(2, -1, -1).clone()
    centres[1] *= 2  # its right and lower half lie outside the image
    padding = (centres > 1).any(-1)
    logits = torch.randn(2, SIDE**2, K)
    boxes = torch.cat([centres.clamp(max=1), 0.3 + 0.3 * torch.rand(2, SIDE**2, 2)], dim=-1)
    return logits.requires_grad_(), boxes.requires_grad_(), centres, padding


def objects() -> Objects:
    boxes = torch.tensor([[0.4, 0.5, 0.5, 0.6], [0.7, 0.6, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9]])
    return Objects(boxes, torch.tensor([0, 2, 1]), torch.tensor([0, 0, 1]), [2, 1], [0, 1])


def test_terms_are_sums_over_cells_by_hand(batch: tuple[Tensor, ...]):
    from torchvision.ops import box_convert, generalized_box_iou

    logits, boxes, centres, padding = batch
    outside = torch.where(padding[..., None], 1e4, centres)
    assigned = task_aligned(logits, boxes, outside, objects())
    label, l1, giou, total = 0.0, 0.0, 0.0, 0.0
    for b in range(2):
        for s in range(SIDE**2):
            if padding[b, s]:
                assert assigned.target[b, s] == -1
                continue
            wanted, t = torch.zeros(K), int(assigned.target[b, s])
            if t >= 0:
                quality = max(assigned.iou[b, s].item(), 0.01)
                wanted[objects().labels[t]] = quality
                truth, box = objects().boxes[t], boxes[b, s].detach()
                corners = (box_convert(x[None], "cxcywh", "xyxy") for x in (box, truth))
                total += quality
                l1 += quality * (box - truth).abs().sum().item()
                giou += quality * (1 - generalized_box_iou(*corners).item())
            label += matchability_aware(logits[b, s].detach(), wanted).sum().item()
    assert total > 1
    found = dense_detection(logits, boxes, centres, padding, objects(), LossContext())
    assert [x.item() for x in found] == pytest.approx([label / total, l1 / total, giou / total], rel=1e-5)


def test_an_object_at_the_border_is_not_assigned_to_padding():
    """Although a padding cell is nearest to it and another lies inside it."""
    centres = torch.tensor([[[0.6, 0.5], [1.1, 0.5]]])
    none = torch.zeros(0, dtype=torch.long)
    small = Objects(torch.tensor([[0.95, 0.5, 0.05, 0.05]]), none.new_tensor([0]), none.new_tensor([0]), [1], [0])
    large = small._replace(boxes=torch.tensor([[1.0, 0.5, 0.9, 0.9]]))
    for objects in (small, large):
        logits, boxes = torch.zeros(1, 2, 1, requires_grad=True), torch.full((1, 2, 4), 0.5, requires_grad=True)
        found = dense_detection(logits, boxes, centres, torch.tensor([[False, True]]), objects, LossContext())
        sum(found).backward()
        assert found.l1 > 0
        assert (boxes.grad[0].abs().amax(-1) > 0).tolist() == [True, False]


def test_a_map_without_objects_has_only_the_class_loss(batch: tuple[Tensor, ...]):
    logits, boxes, centres, padding = batch
    none = torch.zeros(0, dtype=torch.long)
    found = dense_detection(
        logits, boxes, centres, padding, Objects(torch.zeros(0, 4), none, none, [0, 0], [0, 1]), LossContext()
    )
    expected = matchability_aware(logits, torch.zeros_like(logits))[~padding].sum()
    assert found.label.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.l1.item() == found.giou.item() == 0
    sum(found).backward()
    assert (logits.grad[~padding] > 0).all() and boxes.grad.abs().max() == 0


def test_autocast_and_half_precision_change_nothing(batch: tuple[Tensor, ...]):
    logits, boxes, centres, padding = batch
    half = [x.detach().bfloat16() for x in (logits, boxes)]
    expected = dense_detection(*(x.float() for x in half), centres, padding, objects(), LossContext())
    with torch.autocast("cpu", torch.bfloat16):
        found = dense_detection(*half, centres, padding, objects(), LossContext())
    assert [x.item() for x in found] == [x.item() for x in expected]
