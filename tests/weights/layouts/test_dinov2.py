"""DINOv2's files against timm's conversion and the released lists of names."""

import pytest
import torch
from torch import nn

from densevit.weights.key_mapping import describe, translate_back
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


def official(state, registers, gated):
    """timm's tensors in the form of the release."""
    tensors = {key: tensor.clone() for key, tensor in state.items()}
    if registers:  # timm's class token is the sum of both
        width = tensors["cls_token"].shape[2]
        tensors["register_tokens"] = tensors.pop("reg_token")
        tensors["pos_embed"] = torch.cat([torch.randn(1, 1, width), tensors["pos_embed"]], 1)
    if gated:
        tensors = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): x for key, x in tensors.items()}
    return tensors | {"mask_token": torch.randn(1, 128)}


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_features_match_timm_and_round_trip(registers, gated, loaded, randomise):
    import timm
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import checkpoint_filter_fn

    name = f"vit_small_patch14{'_reg4' if registers else ''}_dinov2"
    options = {"mlp_ratio": 2 * 344 / 128, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if gated else {}
    reference = timm.create_model(name, pretrained=False, **SMALL, **DYNAMIC, **options).eval()
    state = official(randomise(reference).state_dict(), registers, gated)
    reference.load_state_dict(checkpoint_filter_fn(dict(state), reference))
    vit = loaded(state, "dinov2", position_resizing="antialiased")  # timm's
    images = torch.randn(2, 3, 71, 115)
    indices = [block - 1 for block in vit.feature_blocks]
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices, norm=True, intermediates_only=True)
        for x, y in zip(vit(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
    back, unknown = translate_back(vit.state_dict(), find("dinov2"))
    assert unknown == [] and back.keys() == state.keys() - {"mask_token"}
    assert back["cls_token"].equal(state["cls_token"] + state["pos_embed"][:, :1])
    assert back["pos_embed"].equal(torch.cat([torch.zeros(1, 1, 128), state["pos_embed"][:, 1:]], 1))
    assert all(back[key].equal(state[key]) for key in back.keys() - {"cls_token", "pos_embed"})
