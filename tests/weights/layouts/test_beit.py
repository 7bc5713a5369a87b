"""BEiT-style encoders match timm's; EVA-02 is refused."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate
from densevit.weights.layouts import find, recognise

pytestmark = pytest.mark.integration

SMALL = {"embed_dim": 128, "depth": 6, "num_heads": 4, "img_size": 96, "patch_size": 16, "num_classes": 7}


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


def test_a_mean_pooled_classifier_has_no_norm_of_features(loaded):
    from timm.models.beit import Beit

    state = Beit(**SMALL, use_abs_pos_emb=True, init_values=0.1, global_pool="avg").state_dict()
    state |= {"mask_token": torch.randn(1, 1, 128), "lm_head.weight": torch.randn(11, 128)}
    state["cls_pt_layers.0.norm1.weight"] = torch.randn(128)
    assert loaded(state, "beit").norm is None
