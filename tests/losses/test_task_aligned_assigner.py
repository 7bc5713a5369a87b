"""Task-aligned assignment against plain loops."""

import pytest
import torch
from torch import Tensor

from densevit.losses.matching import Objects
from densevit.losses.task_aligned_assigner import task_aligned

Rows = list[list[int]]


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
) -> tuple[Rows, list[list[float]]]:
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


def test_without_overlap_the_nearest_cells_inside_come_first():
    objects = objects_of([[[0.5, 0.5, 0.99, 0.99]]], [[0]])
    boxes = torch.tensor([2.0, 2.0, 0.1, 0.1]).expand(1, 25, 4)  # all far away
    found = task_aligned(torch.zeros(1, 25, 1), boxes, grid(5, 1), objects, top=5)
    assert (found.target[0] == 0).nonzero().flatten().tolist() == [7, 11, 12, 13, 17]  # the middle and its neighbours
    assert found.iou.abs().max() == 0
