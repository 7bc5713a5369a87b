"""The authors' checkpoints of Deformable DETR: names of their models, copies, rows and refused tensors."""

import re

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import recognise
from densevit_heads.deformable_detr.checkpoints import DEFORMABLE_DETR
from tests.weights.layouts.test_detr import UNUSED
from tests.weights.layouts.test_detr_originals import recorded
from tests.weights.layouts.test_transformers_deformable_detr import MODES, OWN_RESNET, make

pytestmark = pytest.mark.integration

THIRDS = "in_proj_"


def test_unused_rows_are_restored_without_effect():
    state, _ = recorded("deformable-detr-two-stage")
    back, _ = translate_back(translate(state, DEFORMABLE_DETR).tensors, DEFORMABLE_DETR)
    proposals = "class_embed.2"  # after the two layers of the decoder
    assert back["class_embed.0.bias"][UNUSED].sigmoid().max() == 0
    assert back["class_embed.0.weight"][UNUSED].abs().max() == 0
    assert torch.equal(back[f"{proposals}.weight"][0], state[f"{proposals}.weight"][0])  # tells objects apart
    assert back[f"{proposals}.bias"][1] == -1e4  # a person's row, which the encoder's proposals do not use


@pytest.mark.parametrize(
    ("name", "trained", "head"),
    [
        ("deformable_detr_r50", 39_847_265, {}),
        ("deformable_detr_r50_two_stage", 40_959_129, {"box_refinement": True, "two_stage": True}),
    ],
)
def test_each_tensor_of_the_authors_model_is_used_once(name, trained, head, whole, released):
    """`trained`: counted in the authors' code."""
    state = released(name)
    for key in state:  # a plain model has one class and one box layer, and a refined one has them in the decoder too
        original = key.removeprefix("transformer.decoder.") if head else re.sub(r"(_embed)\.\d", r"\1.0", key)
        if "_embed." in key and original in state:
            state[key] = state[original]
    assert recognise(state) is DEFORMABLE_DETR
    used = DEFORMABLE_DETR.special.rearrange.forward(state)
    model = whole(used, DEFORMABLE_DETR, thirds=THIRDS)
    layers = 7 if head else 1
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == trained - layers * 11 * (256 + 1)
    assert describe(used, DEFORMABLE_DETR) == {
        "backbone": {"name": "resnet", "depth": 50, "dilation": False, "norm": "frozen", "frozen_stages": 2},
        "heads": {
            "detection": {
                "name": "deformable_detr",
                "num_queries": 300,
                "transformer": {
                    "width": 256,
                    "num_heads": 8,
                    "encoder_layers": 6,
                    "decoder_layers": 6,
                    "feedforward": 1024,
                },
                "num_levels": 4,
                "min_stride": 8,
                "num_points": 4,
                "box_refinement": False,
                "two_stage": False,
                "blank_padding": False,
                **head,
            }
        },
    }


def test_copies_that_differ_are_unknown():
    state, _ = recorded("deformable-detr-refined")
    key = "transformer.decoder.bbox_embed.1.layers.0.weight"
    state[key] = state[key] + 1
    assert translate(state, DEFORMABLE_DETR).unknown == [key]


def test_counts_of_operations_are_left_out():
    state, _ = recorded("deformable-detr")
    state |= {"transformer.total_ops": torch.zeros(1), "class_embed.0.total_params": torch.zeros(1)}
    assert translate(state, DEFORMABLE_DETR).unknown == []


def test_attentions_of_different_points_raise():
    state, _ = recorded("deformable-detr")
    for name in state:
        if re.search(r"decoder.*cross_attn\.(sampling_offsets|attention_weights)", name):
            state[name] = state[name][: len(state[name]) // 2]
    with pytest.raises(WeightsError, match="expected the same number in encoder and decoder"):
        describe(state, DEFORMABLE_DETR)


def test_own_resnet_is_another_layout():
    theirs = make(OWN_RESNET, **MODES["multi-scale"])
    assert recognise(theirs.state_dict()) is not DEFORMABLE_DETR
