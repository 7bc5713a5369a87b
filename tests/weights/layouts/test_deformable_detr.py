"""The authors' checkpoints of Deformable DETR: names of their models, and outputs of transformers' with their names."""

import re

import pytest
import torch

from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import recognise
from densevit_heads.deformable_detr.checkpoints import DEFORMABLE_DETR
from tests.weights.layouts.test_detr import UNUSED, USED
from tests.weights.layouts.test_transformers_deformable_detr import MODES, OWN_RESNET, SIZE, loaded, make, run, same

pytestmark = pytest.mark.integration

THIRDS = "in_proj_"
AUTHORS = [  # transformers' names in memory -> the authors', as in transformers' conversion script
    (r"model\.query_position_embeddings\.", "query_embed."),
    (r"model\.(input_proj\..*)", r"\1"),
    (r"model\.(encoder|decoder)\.layers\.(\d)\.mlp\.fc([12])\.", r"transformer.\1.layers.\2.linear\3."),
    (r"model\.encoder\.layers\.(\d)\.self_attn_layer_norm\.", r"transformer.encoder.layers.\1.norm1."),
    (r"model\.encoder\.layers\.(\d)\.final_layer_norm\.", r"transformer.encoder.layers.\1.norm2."),
    (r"model\.decoder\.layers\.(\d)\.encoder_attn_layer_norm\.", r"transformer.decoder.layers.\1.norm1."),
    (r"model\.decoder\.layers\.(\d)\.self_attn_layer_norm\.", r"transformer.decoder.layers.\1.norm2."),
    (r"model\.decoder\.layers\.(\d)\.final_layer_norm\.", r"transformer.decoder.layers.\1.norm3."),
    (r"model\.decoder\.layers\.(\d)\.encoder_attn\.", r"transformer.decoder.layers.\1.cross_attn."),
    (r"model\.decoder\.layers\.(\d)\.self_attn\.o_proj\.", r"transformer.decoder.layers.\1.self_attn.out_proj."),
    (r"model\.(?!backbone)", "transformer."),
]


def authors_state(theirs, body):
    """The state dict of transformers' model with the authors' names. body: the backbone's, with torchvision's."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("model.backbone."):
            continue
        for pattern, replacement in AUTHORS:
            name, found = re.subn(f"^{pattern}", replacement, name)
            if found:
                break
        state[name] = tensor
    for layer in sorted({name.partition(".self_attn.q_proj")[0] for name in state if ".self_attn.q_proj." in name}):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{layer}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            state[f"{layer}.self_attn.in_proj_{kind}"] = torch.cat(parts)
    return {**{f"backbone.0.body.{name}": tensor for name, tensor in body.items()}, **state}


def body_of(theirs):
    """The backbone of transformers' model on timm's ResNet, with torchvision's names."""
    return {
        name.removeprefix("model.backbone.model."): tensor
        for name, tensor in theirs.state_dict().items()
        if name.startswith("model.backbone.") and not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_logits_and_boxes_match(mode, whole, padded_batch):
    theirs = make("timm", **MODES[mode])
    state = authors_state(theirs, body_of(theirs))
    assert recognise(state) is DEFORMABLE_DETR
    ours = loaded(whole, state, DEFORMABLE_DETR, mode, thirds=THIRDS)
    for sizes in ([SIZE, SIZE], [(61, 130), (96, 83)]):
        batch = padded_batch(sizes)
        same(ours(batch)["detection"], run(theirs, batch), USED)

    back, unknown = translate_back(translate(state, DEFORMABLE_DETR).tensors, DEFORMABLE_DETR)
    assert unknown == [] and set(back) == set(state)
    for name, tensor in state.items():
        rows = USED if "class_embed" in name else slice(None)
        rows = [0, *USED[1:]] if mode == "two-stage" and "class_embed.3" in name else rows
        assert torch.equal(back[name][rows], tensor[rows]), name
    again = translate(back, DEFORMABLE_DETR)
    assert again.unknown == again.errors == []


def test_unused_rows_are_restored_without_effect():
    theirs = make("timm", **MODES["two-stage"])
    state = authors_state(theirs, body_of(theirs))
    back, _ = translate_back(translate(state, DEFORMABLE_DETR).tensors, DEFORMABLE_DETR)
    assert back["class_embed.0.bias"][UNUSED].sigmoid().max() == 0
    assert back["class_embed.0.weight"][UNUSED].abs().max() == 0
    assert torch.equal(back["class_embed.3.weight"][0], state["class_embed.3.weight"][0])  # tells objects apart
    assert back["class_embed.3.bias"][1] == -1e4  # a person's row, which the encoder's proposals do not use


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
    used = DEFORMABLE_DETR.rearrange.forward(state)
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
    theirs = make("timm", **MODES["refined"])
    state = authors_state(theirs, body_of(theirs))
    key = "transformer.decoder.bbox_embed.1.layers.0.weight"
    state[key] = state[key] + 1
    assert translate(state, DEFORMABLE_DETR).unknown == [key]


def test_counts_of_operations_are_left_out():
    theirs = make("timm", **MODES["multi-scale"])
    state = authors_state(theirs, body_of(theirs))
    state |= {"transformer.total_ops": torch.zeros(1), "class_embed.0.total_params": torch.zeros(1)}
    assert translate(state, DEFORMABLE_DETR).unknown == []


def test_attentions_of_different_points_raise():
    theirs = make("timm", **MODES["multi-scale"])
    state = authors_state(theirs, body_of(theirs))
    for name in state:
        if re.search(r"decoder.*cross_attn\.(sampling_offsets|attention_weights)", name):
            state[name] = state[name][: len(state[name]) // 2]
    with pytest.raises(WeightsError, match="expected the same number in encoder and decoder"):
        describe(state, DEFORMABLE_DETR)


def test_own_resnet_is_another_layout():
    theirs = make(OWN_RESNET, **MODES["multi-scale"])
    assert recognise(theirs.state_dict()) is not DEFORMABLE_DETR
