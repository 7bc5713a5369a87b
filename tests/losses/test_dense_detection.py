"""The one-to-many loss on all cells, and its assignment against plain loops."""

import pytest
import torch
from torch import Tensor

from densevit.losses.classification import matchability_aware
from densevit.losses.context import LossContext
from densevit.losses.dense_detection import dense_detection
from densevit.losses.matching import Objects
from densevit.losses.task_aligned_assigner import task_aligned


def grid(side: int, B: int) -> Tensor:
    """Cell centres, (B, side * side, 2), in row-major order."""
    place = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1).expand(B, -1, -1).clone()


def objects_of(boxes: list[list[list[float]]], labels: list[list[int]]) -> Objects:
    """cxcywh boxes and labels, image by image."""
    counts = [len(x) for x in boxes]
    flat = torch.tensor([box for image in boxes for box in image]).reshape(-1, 4)
    image = torch.repeat_interleave(torch.tensor(counts))
    return Objects(flat, torch.tensor([x for image in labels for x in image]), image, counts, list(range(len(counts))))


def in_loops(
    logits: Tensor, boxes: Tensor, centres: Tensor, objects: Objects, top: int
) -> tuple[list[list[int]], list[list[float]]]:
    from torchvision.ops import box_convert, box_iou

    B, S, _ = logits.shape
    target, overlap = [[-1] * S for _ in range(B)], [[0.0] * S for _ in range(B)]
    for t in range(len(objects.labels)):
        b = int(objects.image[t])
        cx, cy, w, h = objects.boxes[t].tolist()
        distances = [(x - cx) ** 2 + (y - cy) ** 2 for x, y in centres[b].tolist()]
        candidates = []
        for s, (x, y) in enumerate(centres[b].tolist()):
            inside = cx - w / 2 < x < cx + w / 2 and cy - h / 2 < y < cy + h / 2
            if inside or s == distances.index(min(distances)):
                pair = (box_convert(box[None], "cxcywh", "xyxy") for box in (boxes[b, s], objects.boxes[t]))
                iou = box_iou(*pair).item()
                p = logits[b, s, objects.labels[t]].sigmoid().item()
                alignment = max(p, 1e-4) ** 0.5 * max(iou, 1e-2) ** 6 / (1 + 1e-3 * distances[s])
                candidates.append((alignment, iou, s))
        for _, iou, s in sorted(candidates, reverse=True)[:top]:
            if target[b][s] < 0 or iou > overlap[b][s]:
                target[b][s], overlap[b][s] = t, iou
    return target, overlap


@pytest.mark.parametrize("top", [1, 3, 9])
def test_assignment_matches_plain_loops(top: int):
    """Overlapping objects with common cells, an image without objects, a tiny and a full-size object."""
    objects = objects_of(
        [
            [[0.4, 0.5, 0.6, 0.5], [0.55, 0.5, 0.5, 0.6], [0.45, 0.45, 0.5, 0.5]],
            [],
            [[0.51, 0.02, 0.01, 0.01], [0.5, 0.5, 1.0, 1.0]],
        ],
        [[0, 1, 1], [], [2, 0]],
    )
    logits, centres = 6 * torch.randn(3, 36, 3), grid(6, 3)
    boxes = torch.cat([centres + 0.1 * torch.randn(3, 36, 2), 0.3 + 0.5 * torch.rand(3, 36, 2)], dim=-1)
    found = task_aligned(logits, boxes, centres, objects, top=top)
    target, overlap = in_loops(logits, boxes, centres, objects, top)
    assert found.target.tolist() == target
    torch.testing.assert_close(found.iou, torch.tensor(overlap))
    if top > 1:  # with one cell each, one of the three loses its own to another
        assert set(found.target[0].tolist()) == {-1, 0, 1, 2}


SIDE, K = 4, 3


def test_terms_are_sums_over_cells_by_hand():
    """On two maps; half of the second is padding."""
    from torchvision.ops import box_convert, generalized_box_iou

    centres = grid(SIDE, 2)
    centres[1] *= 2  # its right and lower half lie outside the image
    padding = (centres > 1).any(-1)
    logits = torch.randn(2, SIDE**2, K, requires_grad=True)
    boxes = torch.cat([centres.clamp(max=1), 0.3 + 0.3 * torch.rand(2, SIDE**2, 2)], dim=-1).requires_grad_()
    objects = objects_of([[[0.4, 0.5, 0.5, 0.6], [0.7, 0.6, 0.5, 0.5]], [[0.5, 0.5, 0.9, 0.9]]], [[0, 2], [1]])
    assigned = task_aligned(logits, boxes, torch.where(padding[..., None], 1e4, centres), objects)
    label, l1, giou, total = 0.0, 0.0, 0.0, 0.0
    for b in range(2):
        for s in range(SIDE**2):
            if padding[b, s]:
                assert assigned.target[b, s] == -1
                continue
            wanted, t = torch.zeros(K), int(assigned.target[b, s])
            if t >= 0:
                quality = max(assigned.iou[b, s].item(), 0.01)
                wanted[objects.labels[t]] = quality
                truth, box = objects.boxes[t], boxes[b, s].detach()
                corners = (box_convert(x[None], "cxcywh", "xyxy") for x in (box, truth))
                total += quality
                l1 += quality * (box - truth).abs().sum().item()
                giou += quality * (1 - generalized_box_iou(*corners).item())
            label += matchability_aware(logits[b, s].detach(), wanted).sum().item()
    assert total > 1
    found = dense_detection(logits, boxes, centres, padding, objects, LossContext())
    assert [x.item() for x in found] == pytest.approx([label / total, l1 / total, giou / total], rel=1e-5)
