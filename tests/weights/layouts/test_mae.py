"""MAE's encoder: pre-training files with their decoder, fine-tuning files, and timm's conversion of the encoder."""

import pytest
import torch

from densevit.weights.key_mapping import describe
from densevit.weights.layouts import find

pytestmark = pytest.mark.integration

SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 96, "dynamic_img_size": True}


def test_pretraining_file_is_translated_except_for_its_decoder(released, loaded):
    with torch.device("meta"):
        state = released("mae_visualize_vit_huge")
    loaded(state, "mae")
    section = {"name": "vit", "variant": "huge", "patch_size": 14, "image_size": 224}
    section["position_resizing"] = "bicubic"
    assert describe(state, find("mae")) == {"backbone": section}


def test_finetuning_file_has_the_classifier_s_norm(released, loaded):
    with torch.device("meta"):
        state = released("mae_finetuned_vit_base")
    loaded(state, "mae", recognised="timm-vit")
    section = {"name": "vit", "variant": "base", "patch_size": 16, "image_size": 224, "feature_norm": False}
    assert describe(state, find("timm-vit")) == {"backbone": section}
    assert describe(state, find("mae")) == {"backbone": section | {"position_resizing": "bicubic"}}


def test_features_match_timm(loaded, randomise):
    import timm

    reference = randomise(timm.create_model("vit_base_patch16_224", num_classes=0, dynamic_img_pad=True, **SMALL))
    decoder = {"decoder_embed": (64, 128), "decoder_pred": (768, 64), "decoder_blocks.0.attn.qkv": (192, 64)}
    state = reference.state_dict() | {f"{name}.weight": torch.randn(shape) for name, shape in decoder.items()}
    state |= {"mask_token": torch.randn(1, 1, 64), "decoder_pos_embed": torch.randn(1, 37, 64)}
    vit = loaded(state, "mae", position_resizing="antialiased")  # timm's
    images = torch.randn(2, 3, 71, 115)
    indices = [block - 1 for block in vit.feature_blocks]
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices, norm=True, intermediates_only=True)
        for x, y in zip(vit(images), expected, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
