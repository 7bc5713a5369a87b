"""Mask2Former computes what its authors' code does, which `originals/record_dense.py` has recorded."""

import pytest
import torch

from densevit.weights.layouts import recognise
from densevit_backbones.swin.variants import VARIANTS, Variant
from densevit_heads.mask2former.transformer import MaskQueries, mask_logits
from tests.weights.layouts.originals.weights import MASK2FORMER_SIZES, mask2former_batch, random_mask2former
from tests.weights.layouts.recordings import recorded

pytestmark = pytest.mark.integration


@pytest.mark.parity("mask2former", "mask2former-resnet")
@pytest.mark.parametrize("original", ["mask2former", "mask2former-resnet"])
@torch.no_grad()
def test_a_padded_batch_has_the_original_s_logits_and_masks(original, whole, monkeypatch):
    monkeypatch.setitem(VARIANTS, "nano", Variant(8, (2, 2, 2, 2), (1, 2, 2, 4), 0.0))
    shapes, expected = recorded(original)
    state = random_mask2former(shapes)
    layout = recognise(state)
    assert layout.name == original
    model = whole(state, layout, thirds="in_proj_")
    images = mask2former_batch()
    padding_mask = torch.ones(len(images), *images.shape[2:], dtype=torch.bool)
    for mask, (h, w) in zip(padding_mask, MASK2FORMER_SIZES, strict=True):
        mask[:h, :w] = False
    outputs = model.heads["panoptic"](model.backbone(images), padding_mask)
    states = MaskQueries(*outputs["layers"])
    for name, layer in (("last", -1), ("first", 0)):
        logits, masks = expected[f"{name}.logits"], expected[f"{name}.masks"]
        assert logits.std(1).mean() > 0.1 and masks.std() > 0.1
        torch.testing.assert_close(states.logits[layer], logits, atol=1e-4, rtol=1e-4)
        found = mask_logits(states.embeddings[layer], outputs["pixels"])[..., ::3, ::3]
        torch.testing.assert_close(found, masks, atol=1e-4, rtol=1e-4)
