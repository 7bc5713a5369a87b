"""BEiT-style encoders: those with absolute positions beside timm's, and the refusal of all others."""

import pytest
import timm
import torch
from timm.models.beit import Beit, checkpoint_filter_fn

from densevit.errors import WeightsError
from densevit.weights.layout import translate
from densevit.weights.layouts import find, recognise

SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 96, "patch_size": 16, "num_classes": 7}


def test_the_released_beit_is_refused_for_its_bias_of_offsets(released):
    with torch.device("meta"):
        state = released("beit_base_patch16_224_pt22k")
    assert recognise(state).name == "beit"
    with pytest.raises(WeightsError, match=r"rel_pos_bias\.relative_position_bias_table.*has no such bias"):
        find("beit").describe(state)
    done = translate(state, find("beit"))
    assert done.wrong == [] and done.unknown == ["rel_pos_bias.relative_position_bias_table"]
    used = [key for origins in done.origins.values() for key in origins]
    assert sorted([*used, *done.left_out, *done.unknown]) == sorted(state)


@pytest.mark.parametrize("name", ["beitv2_base_patch16_224", "beit_large_patch16_384"])
def test_timm_s_beits_are_refused_too(name):
    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
    assert recognise(state).name == "beit"
    with pytest.raises(WeightsError, match=r"^blocks\.0\.attn\.relative_position_bias_table"):
        find("beit").describe(state)


def test_eva02_is_refused():
    with torch.device("meta"):
        state = timm.create_model("eva02_base_patch14_224", pretrained=False).state_dict()
    official = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3", "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln"}
    for timm_s, own in {**official, "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}.items():
        state = {key.replace(timm_s, own): x for key, x in state.items()}
    assert recognise(state).name == "eva02"
    with pytest.raises(WeightsError, match="rotary positions beside learned ones"):
        find("eva02").describe(state)


@pytest.mark.parametrize("mean_pooled", [False, True])
def test_an_encoder_with_absolute_positions_has_timm_s_features(mean_pooled, loaded, randomise):
    options = {**SMALL, "use_abs_pos_emb": True, "init_values": 0.1, "global_pool": "avg" if mean_pooled else "token"}
    state = randomise(Beit(**options)).state_dict()
    for key in state:
        if "gamma_" in key:
            state[key] = torch.rand(128) + 0.1
    state |= {"mask_token": torch.randn(1, 1, 128), "lm_head.weight": torch.randn(11, 128)}
    reference = Beit(**options).eval()
    missing, unexpected = reference.load_state_dict(checkpoint_filter_fn(dict(state), reference), strict=False)
    assert missing == [] and set(unexpected) == {"mask_token", "lm_head.weight"}
    vit = loaded(state, "beit")
    assert (vit.norm is None) == mean_pooled
    images = torch.randn(2, 3, 96, 96)
    indices = [block - 1 for block in vit.feature_blocks]
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices, norm=not mean_pooled, intermediates_only=True)
        for x, y in zip(vit(images), expected, strict=True):
            assert y.abs().mean() > 0.1
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
