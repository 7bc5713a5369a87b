"""DETR and Deformable DETR compute what their authors' code does, which `originals/record_dense.py` has recorded."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from densevit.weights.label_sets import coco_classes, coco_panoptic_classes
from densevit.weights.layouts import recognise
from tests.weights.layouts.originals.weights import DETR_BATCHES, NUM_PROPOSALS, detr_image, key_of, random_detr
from tests.weights.layouts.recordings import recorded

pytestmark = pytest.mark.integration

ORIGINALS = ["detr", "detr-learned", "detr-dc5", "detr-panoptic", "deformable-detr"]
ORIGINALS += [f"deformable-detr-{kind}" for kind in ("single-scale", "refined", "two-stage")]


def batch_of(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The images, padded to one size."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        images[i, :, :h, :w], padding[i, :h, :w] = detr_image(h, w), False
    return {"images": images, "padding_mask": padding, "targets": [{"size": s, "original_size": s} for s in sizes]}


@pytest.mark.parity("detr", "detr-panoptic", "deformable-detr")
@pytest.mark.parametrize("original", ORIGINALS)
@torch.no_grad()
def test_outputs_are_those_of_the_original(original, whole):
    shapes, expected = recorded(original)
    state = random_detr(shapes)
    layout = recognise(state)
    assert original.startswith(layout.name)
    used = layout.special.rearrange.forward(state) if layout.special.rearrange else state
    model = whole(used, layout, thirds="in_proj_", dilation=original.endswith("dc5"))
    model.double()  # as recorded
    [(task, head)] = model.heads.items()
    if original.endswith("two-stage"):
        head.queries.num_queries = NUM_PROPOSALS  # not determined by tensors
    rows = [one.file_id for one in (coco_panoptic_classes if task == "panoptic" else coco_classes)()]
    if layout.name != "deformable-detr":
        rows.append(-1)  # "no object"
    for sizes in DETR_BATCHES[1 : 3 if original == layout.name else 2]:  # padded, and of one image
        outputs, key = model(batch_of(sizes))[task], key_of(sizes)
        found = {"logits": outputs["layers"][0], "boxes": outputs["layers"][1]}
        theirs = {"logits": expected[f"{key}.logits"][..., rows], "boxes": expected[f"{key}.boxes"]}
        if task == "panoptic":
            found["masks"], theirs["masks"] = outputs["masks"][None, ..., ::3, ::3], expected[f"{key}.masks"][None]
        for kind, x in theirs.items():
            spread = x.std(2).mean()  # between queries
            assert spread > 0.02, (kind, spread)
            torch.testing.assert_close(found[kind].float(), x, atol=1e-4, rtol=1e-4)
