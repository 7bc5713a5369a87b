"""Deformable DETR computes what its authors' code does, which `originals/record_deformable_detr.py` has recorded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from densevit.weights.layouts import recognise
from densevit_heads.deformable_detr.checkpoints import DEFORMABLE_DETR
from tests.weights.layouts.originals.record_deformable_detr import MODES, SIZES, SMALL, random_weights
from tests.weights.layouts.originals.record_swin import random_image
from tests.weights.layouts.test_deformable_detr import THIRDS, USED

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_padded_batch_has_the_original_s_logits_and_boxes(mode, whole):
    with safe_open(Path(__file__).parent / "originals" / f"deformable-detr-{mode}.safetensors", "pt") as file:
        state = random_weights(*(json.loads(file.metadata()[key]) for key in ("shapes", "shared")))
        logits, boxes = file.get_tensor("logits"), file.get_tensor("boxes")
    assert recognise(state) is DEFORMABLE_DETR
    model = whole(DEFORMABLE_DETR.rearrange.forward(state), DEFORMABLE_DETR, thirds=THIRDS)
    head = model.heads["detection"]
    if mode == "two-stage":  # their number is not among the tensors
        head.queries.num_queries = SMALL["num_queries"]
    images = torch.zeros(len(SIZES), 3, *SIZES[0])
    padding_mask = torch.ones(len(SIZES), *SIZES[0], dtype=torch.bool)
    for image, mask, (h, w) in zip(images, padding_mask, SIZES, strict=True):
        image[:, :h, :w], mask[:h, :w] = random_image(h, w)[0], False
    found = head(model.backbone(images), padding_mask)
    assert logits.std(1).mean() > 0.1 and boxes.std(1).mean() > 0.01
    torch.testing.assert_close(found["logits"], logits[..., USED], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["boxes"], boxes, atol=1e-4, rtol=1e-4)
