"""Options that tensors do not determine are those of config.json; values for which no model is built are refused."""

import pytest
import torch

from densevit.errors import WeightsError
from densevit.layouts import find
from densevit.weights.checkpoint import Checkpoint
from densevit_checkpoints.foreign_checkpoint import translate_checkpoint
from densevit_checkpoints.key_mapping import saved_options

pytestmark = pytest.mark.integration

HEAD = "heads.detection"
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
DENOISED = {f"{HEAD}.num_queries": 500, f"{HEAD}.contrastive_denoising": 50}
DPT = {"model_type": "dpt", "backbone_out_indices": [2, 5, 8, 11]}


@pytest.mark.parametrize(
    ("layout", "kind", "given", "expected"),
    [
        (
            "transformers-deformable-detr",
            "DeformableDetrConfig",
            {
                **HEADS,
                "encoder_n_points": 2,
                "decoder_n_points": 2,
                "dilation": True,
                "with_box_refine": True,
                "two_stage": True,
                "two_stage_num_proposals": 500,
            },
            {"backbone.dilation": True, f"{HEAD}.num_points": 2, f"{HEAD}.num_queries": 500},
        ),
        (
            "transformers-rtdetrv2",
            "RTDetrV2Config",
            {**HEADS, "decoder_n_points": 2, "num_queries": 500, "num_denoising": 50, "decoder_method": "discrete"},
            {**DENOISED, f"{HEAD}.num_points": 2, f"{HEAD}.sampling": "discrete"},
        ),
        (
            "transformers-dfine",
            "DFineConfig",
            {**HEADS, "num_queries": 500, "num_denoising": 50, "reg_scale": 8.0},
            {**DENOISED, f"{HEAD}.reg_scale": 8.0, f"{HEAD}.num_points": (4, 4, 4)},
        ),
    ],
)
def test_options_of_detectors_are_read_from_the_config(layout, kind, given, expected):
    import transformers

    found = saved_options({}, find(layout), {"config": getattr(transformers, kind)(**given).to_dict()})
    assert found == {f"{HEAD}.transformer.num_heads": 4, **expected}


def test_learned_queries_and_blocks_of_features_are_read():
    learned = {"model.query_position_embeddings.weight": torch.zeros(50, 8)}
    assert saved_options(learned, find("transformers-deformable-detr"), {}) == {f"{HEAD}.num_queries": 50}
    options = find("transformers-dpt").options.saved
    assert options({}, {"config": DPT}) == {"backbone.features": (3, 6, 9, 12)}
    assert options({}, {"config": DPT | {"is_hybrid": True}}) == {"backbone.features": (9, 12)}


ANYTHING = "transformers-depth-anything"


@pytest.mark.parametrize(
    ("name", "config", "found"),
    [
        ("transformers-vit", {"hidden_act": "relu"}, 'hidden_act: "relu"'),
        ("transformers-detr", {"activation_function": "gelu"}, 'activation_function: "gelu"'),
        ("transformers-dpt-hybrid", {"readout_type": "add"}, 'readout_type: "add"'),
        ("transformers-mask2former", {"backbone_config": {"hidden_act": "relu"}}, 'backbone_config.hidden_act: "relu"'),
        (ANYTHING, {"reassemble_factors": [4, 2, 1, 1]}, r"reassemble_factors: \[4, 2, 1, 1\]"),
        (ANYTHING, {"backbone_config": {"model_type": "swin"}}, 'backbone_config.model_type: "swin"'),
    ],
)
def test_values_for_which_no_model_is_built_are_refused(name, config, found):
    with pytest.raises(WeightsError, match=f"a.bin: its config.json has {found}, but a {name} is built only with "):
        translate_checkpoint(Checkpoint({}, "a.bin", metadata={"config": config}), find(name))


@pytest.mark.parametrize(
    ("name", "config", "facts"),
    [
        ("transformers-vit", {"hidden_size": 768, "num_attention_heads": 8}, "8 attention heads for 768 channels"),
        ("transformers-swin", {"embed_dim": 96, "num_heads": [2, 4, 8, 16]}, "attention heads for 96 channels"),
        (ANYTHING, {"depth_estimation_type": "metric", "max_depth": None}, "metric and max_depth: None"),
        (ANYTHING, {"depth_estimation_type": "relative", "max_depth": 20}, "max_depth: 20 of a relative model"),
    ],
)
def test_wrong_values_are_refused(name, config, facts):
    more = {"model_type": "depth_anything"} if name == ANYTHING else {}
    with pytest.raises(WeightsError, match=facts):
        find(name).options.saved({}, {"config": more | config})
