"""Recorded attention beside that of transformers and torch, with the same weights."""

import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit_workbench.inspection.parts import inspector_of
from densevit_workbench.inspection.recording import attention_weights, recorded_attention
from tests.checkpoints.layouts import models


def test_swin_equals_transformers(tmp_path):
    """Maps of 34, 17, 9 and 5 cells, padded to windows of 4."""
    from transformers import SwinConfig, SwinModel

    nano = {"embed_dim": 32, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8], "drop_path_rate": 0.0}
    config = SwinConfig(image_size=136, window_size=4, num_labels=2, attn_implementation="eager", **nano)
    theirs = models.randomised(SwinModel(config, add_pooling_layer=False), {"": 2.0})  # attention is not uniform
    theirs.save_pretrained(tmp_path)
    ours = densevit.create_backbone("swin", variant="nano", window_size=4, weights=tmp_path).eval()
    images = torch.randn(1, 3, 136, 136)
    with torch.no_grad(), recorded_attention(ours) as found:
        expected = theirs(images, output_attentions=True).attentions
        ours(images)
    layers = inspector_of(ours).attention(ours, found, (136, 136))
    assert len(layers) == 6
    chosen = [layers[i] for i in (0, 1, 4, 5)] if len(expected) == 4 else layers  # or the last of each stage only
    for layer, weights in zip(chosen, expected, strict=True):
        assert weights.amax() > 0.2
        torch.testing.assert_close(layer.weights, weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["bias", "bool", "causal", "scale", "grouped"])
def test_weights_reproduce_the_output_of_fused_attention(kind):
    query, key, value = (torch.randn(2, heads, 7, 8) for heads in (4, 2 if kind == "grouped" else 4, 4))
    value = value[:, :2] if kind == "grouped" else value
    options = {
        "bias": {"attn_mask": torch.randn(7, 7)},
        "bool": {"attn_mask": torch.eye(7, dtype=torch.bool) | (torch.rand(7, 7) > 0.5)},
        "causal": {"is_causal": True},
        "scale": {"scale": 0.7},
        "grouped": {"enable_gqa": True},
    }[kind]
    weights = attention_weights(query, key, value, **options)
    values = value.repeat_interleave(2, 1) if kind == "grouped" else value
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(weights @ values, expected, rtol=1e-4, atol=1e-5)
