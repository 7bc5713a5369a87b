"""BEiT-style encoders match timm's; EVA-02 is refused."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find, recognise

pytestmark = pytest.mark.integration

SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 96, "patch_size": 16, "num_classes": 7}
OFFSETS = {**SMALL, "init_values": 0.1, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
POOLED = ("fc_norm.weight", "fc_norm.bias")  # after mean pooling, for the classifier


def test_released_encoder_has_the_shared_bias_in_each_block(released, loaded):
    state = released("beit_base_patch16_224_pt22k")
    shared = state.pop("rel_pos_bias.relative_position_bias_table")
    layout = find("beit")
    done = translate({**state, "rel_pos_bias.relative_position_bias_table": shared}, layout)
    own = loaded({**state, **{f"blocks.{i}.attn.relative_position_bias_table": shared for i in range(12)}}, "beit")
    assert done.unknown == [] and done.errors == [] and own.positions == "relative" and own.position_side == 14
    for key, x in own.state_dict().items():
        assert torch.equal(done.tensors[key], x), key


@pytest.mark.parametrize("name", ["beitv2_base_patch16_224", "beit_large_patch16_384"])
def test_timm_checkpoints_are_translated(name, loaded):
    import timm

    with torch.device("meta"):
        state = timm.create_model(name, pretrained=False).state_dict()
        assert loaded(state, "beit").positions == "relative"


def with_scales(state):
    return {key: torch.rand(128) + 0.1 if "gamma_" in key else x for key, x in state.items()}


@pytest.mark.parametrize("size", [(96, 96), (80, 144)])
def test_features_match_timm_at_any_size(size, loaded, randomise):
    from timm.layers import resize_rel_pos_bias_table_simple
    from timm.models.beit import Beit

    options = {**OFFSETS, "global_pool": "token"}
    state = with_scales(randomise(Beit(**options)).state_dict())
    vit = loaded(state, "beit")
    reference = Beit(**{**options, "img_size": size}).eval()
    window = (size[0] // 16, size[1] // 16)
    shape = ((2 * window[0] - 1) * (2 * window[1] - 1) + 3, 4)
    for key in state:
        if key.endswith("bias_table"):
            state[key] = resize_rel_pos_bias_table_simple(state[key], window, shape)
    state = {key: x for key, x in state.items() if "position_index" not in key}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert unexpected == [] and all("position_index" in key for key in missing)
    images = torch.randn(2, 3, *size)
    indices = [block - 1 for block in vit.feature_blocks]
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices, norm=True, intermediates_only=True)
        for x, y in zip(vit(images), expected, strict=True):
            assert y.abs().mean() > 0.1
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_round_trip_is_bit_identical(randomise):
    from timm.models.beit import Beit

    state = with_scales(randomise(Beit(**OFFSETS)).state_dict())
    layout = find("beit")
    back, unknown = translate_back(translate(state, layout).tensors, layout)
    assert unknown == [] and len([key for key in back if key.endswith("bias_table")]) == 6
    for key, x in back.items():
        assert torch.equal(x, state[key]), key
    assert {key for key in state if key not in back and "index" not in key} == {"head.weight", "head.bias", *POOLED}


def test_eva02_raises():
    import timm

    with torch.device("meta"):
        state = timm.create_model("eva02_base_patch14_224", pretrained=False).state_dict()
    official = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3", "mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln"}
    for timm_s, own in {**official, "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}.items():
        state = {key.replace(timm_s, own): x for key, x in state.items()}
    assert recognise(state).name == "eva02"
    with pytest.raises(WeightsError, match="rotary and learned positions together"):
        describe(state, find("eva02"))


@pytest.mark.parametrize("mean_pooled", [False, True])
def test_encoder_with_absolute_positions_matches_timm(mean_pooled, loaded, randomise):
    from timm.models.beit import Beit, checkpoint_filter_fn

    options = {**SMALL, "use_abs_pos_emb": True, "init_values": 0.1, "global_pool": "avg" if mean_pooled else "token"}
    state = randomise(Beit(**options)).state_dict()
    state = with_scales(state)
    state |= {"mask_token": torch.randn(1, 1, 128), "lm_head.weight": torch.randn(11, 128)}
    state["cls_pt_layers.0.norm1.weight"] = torch.randn(128)
    reference = Beit(**options).eval()
    missing, unexpected = reference.load_state_dict(checkpoint_filter_fn(dict(state), reference), strict=False)
    assert missing == [] and set(unexpected) == {"mask_token", "lm_head.weight", "cls_pt_layers.0.norm1.weight"}
    vit = loaded(state, "beit")
    assert (vit.norm is None) == mean_pooled
    images = torch.randn(2, 3, 96, 96)
    indices = [block - 1 for block in vit.feature_blocks]
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices, norm=not mean_pooled, intermediates_only=True)
        for x, y in zip(vit(images), expected, strict=True):
            assert y.abs().mean() > 0.1
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)
