"""The layouts of the authors' checkpoints of papers: their names, written and read."""

from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit.layouts import find
from densevit_checkpoints.key_mapping import describe, translate, translate_back
from densevit_checkpoints.recognition import recognise
from tests.random_weights import randomise
from tests.weights.states import assert_state, equal

BLOCK = "blocks.1.conv.conv"
AXIS = "layer2.0.width_block"
# By layout: the options that tell its sizes; modules or tensors of ours and theirs; what a classifier has besides.
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    "localvit": (
        {"name": "local_vit", "variant": "nano", "patch_size": 16, "image_size": 64, "se_reduction": 4},
        {
            "embedding.projection": "patch_embed.proj",
            "blocks.1.mlp.expand": f"{BLOCK}.0",
            "blocks.1.mlp.expand_norm": f"{BLOCK}.1",
            "blocks.1.mlp.gate.fc1": f"{BLOCK}.6.fc.0",
            "blocks.1.mlp.gate.fc2": f"{BLOCK}.6.fc.2",
            "blocks.1.mlp.contract_norm": f"{BLOCK}.8",
            "norm": "norm",
        },
        ("head.weight", "head.bias"),
    ),
    "deepvit": (
        {"name": "deep_vit", "variant": "nano", "patch_size": 16, "image_size": 64},
        {
            "embedding.norm2": "patch_embed.bn2",
            "embedding.projection": "patch_embed.proj",
            "blocks.4.attention.mixing": "blocks.4.attn.reatten_matrix",
            "blocks.4.attention.map_norm": "blocks.4.attn.var_norm",
            "blocks.4.mlp.expand": "blocks.4.mlp.fc1",
            "blocks.4.mlp.contract": "blocks.4.mlp.fc2",
            "norm": "norm",
        },
        ("head.weight", "head.bias"),
    ),
    "vision-longformer": (
        {"name": "vision_longformer", "variant": "nano", "window_size": 7, "global_tokens": 1},
        {
            "stages.1.tokens": "layer2.0.cls_token",
            "stages.1.projection": "layer2.0.proj",
            "stages.1.norm": "layer2.0.norm_embed",
            "stages.1.blocks.0.norm2": "layer2.2.norm",
            "stages.1.blocks.0.attention.output": "layer2.1.attn.proj",
            "stages.1.blocks.0.mlp.expand": "layer2.2.mlp.fc1",
            "stages.1.blocks.0.mlp.contract": "layer2.2.mlp.fc2",
        },
        ("norm.weight", "norm.bias", "head.weight", "layer1.1.attn.relative_position_index"),
    ),
    "axial-deeplab-axial_resnet": (
        {"name": "attention_resnet", "depth": 26, "width": 8, "axial": {"num_heads": 1, "image_size": 64}},
        {
            "bn1": "bn1",
            "layer2.0.conv3": "layer2.0.conv_up",
            "layer2.0.bn3": "layer2.0.bn2",
            "layer2.0.conv2.1.relative": f"{AXIS}.relative",
            "layer2.0.conv2.1.qkv": f"{AXIS}.qkv_transform",
            "layer2.0.conv2.1.qkv_norm": f"{AXIS}.bn_qkv",
            "layer2.0.conv2.1.similarity_norm": f"{AXIS}.bn_similarity",
            "layer2.0.conv2.1.output_norm": f"{AXIS}.bn_output",
            "layer2.0.conv2.0.qkv": "layer2.0.hight_block.qkv_transform",
        },
        ("fc.weight", "fc.bias", f"{AXIS}.flatten_index"),
    ),
}


def part_of(state: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """The tensors of a module, or a tensor, without shapes."""
    return {key.removeprefix(module): x.flatten() for key, x in state.items() if f"{key}.".startswith(f"{module}.")}


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoints_of_the_authors_are_read_and_written(name):
    options, modules, surplus = LAYOUTS[name]
    layout = find(name)
    ours = randomise(densevit.create_backbone(**options)).state_dict()
    written, unknown = translate_back(ours, layout)
    assert unknown == []
    for own, theirs in modules.items():
        expected = part_of(ours, own)
        assert expected and equal(part_of(written, theirs), expected)
    state = {**written, **{key: torch.zeros(3, 3) for key in surplus}}
    assert recognise(state) is layout and describe(state, layout)["backbone"] == options
    done = translate(state, layout)
    assert done.unknown == done.errors == [] and len(done.ignored_keys) >= len(surplus)
    assert_state(done.tensors, ours)
