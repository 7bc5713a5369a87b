"""DINOv2's files against timm's conversion and the released lists of names."""

import pytest
import torch
from torch import nn

from densevit.weights.key_mapping import describe
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration

SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 98}
DYNAMIC = {"dynamic_img_size": True, "dynamic_img_pad": True, "num_classes": 0}


def test_released_giant_with_registers_is_translated_completely(released, loaded):
    with torch.device("meta"):
        state = released("dinov2_vitg14_reg4_pretrain")
    loaded(state, "dinov2")
    section = {"name": "vit", "variant": "giant", "patch_size": 14, "image_size": 518, "layer_scale": 1e-5}
    assert describe(state, find("dinov2")) == {"backbone": {**section, "registers": 4, "swiglu": True}}


def test_features_of_gated_mlps_match_timm(loaded, randomise):
    import timm
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import checkpoint_filter_fn

    gated = {"mlp_ratio": 2 * 344 / 128, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    reference = timm.create_model("vit_small_patch14_dinov2", pretrained=False, **SMALL, **DYNAMIC, **gated).eval()
    state = randomise(reference).state_dict() | {"mask_token": torch.randn(1, 128)}
    state = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): x.clone() for key, x in state.items()}
    reference.load_state_dict(checkpoint_filter_fn(dict(state), reference))
    vit = loaded(state, "dinov2", position_resizing="antialiased")  # timm's
    images = torch.randn(2, 3, 71, 115)
    indices = [block - 1 for block in vit.feature_blocks]
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices, norm=True, intermediates_only=True)
        for x, y in zip(vit(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
