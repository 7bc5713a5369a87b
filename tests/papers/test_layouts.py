"""The layouts of the authors' checkpoints of papers: their names, written and read, and files that are refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import densevit
from densevit.errors import WeightsError
from densevit.weights.key_mapping import describe, translate, translate_back
from densevit.weights.layouts import find, recognise
from densevit_papers import deep_vit
from tests.papers.small_models import randomise

VIL: dict[str, Any] = {"name": "vision_longformer", "variant": "nano", "window_size": 7, "global_tokens": 1}
BLOCK = "blocks.1.conv.conv"
AXIS = "layer2.0.width_block"
# By layout: the options that tell its sizes; modules or tensors of ours and theirs; what a classifier has besides.
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    "localvit": (
        {"name": "local_vit", "variant": "nano", "patch_size": 16, "image_size": 64, "se_reduction": 4},
        {
            "embedding.projection": "patch_embed.proj",
            "blocks.1.norm": "blocks.1.norm1",
            "blocks.1.attention.output": "blocks.1.attn.proj",
            "blocks.1.mlp.expand": f"{BLOCK}.0",
            "blocks.1.mlp.expand_norm": f"{BLOCK}.1",
            "blocks.1.mlp.depthwise": f"{BLOCK}.3",
            "blocks.1.mlp.depthwise_norm": f"{BLOCK}.4",
            "blocks.1.mlp.gate.fc1": f"{BLOCK}.6.fc.0",
            "blocks.1.mlp.gate.fc2": f"{BLOCK}.6.fc.2",
            "blocks.1.mlp.contract": f"{BLOCK}.7",
            "blocks.1.mlp.contract_norm": f"{BLOCK}.8",
            "norm": "norm",
        },
        ("head.weight", "head.bias"),
    ),
    "deepvit": (
        {"name": "deep_vit", "variant": "nano", "patch_size": 16, "image_size": 64},
        {
            "embedding.conv1": "patch_embed.conv1",
            "embedding.norm2": "patch_embed.bn2",
            "embedding.projection": "patch_embed.proj",
            "blocks.4.norm2": "blocks.4.norm2",
            "blocks.4.attention.output": "blocks.4.attn.proj",
            "blocks.4.attention.mixing": "blocks.4.attn.reatten_matrix",
            "blocks.4.attention.map_norm": "blocks.4.attn.var_norm",
            "blocks.4.mlp.expand": "blocks.4.mlp.fc1",
            "blocks.4.mlp.contract": "blocks.4.mlp.fc2",
            "norm": "norm",
        },
        ("head.weight", "head.bias"),
    ),
    "vision-longformer": (
        VIL,
        {
            "stages.1.tokens": "layer2.0.cls_token",
            "stages.1.projection": "layer2.0.proj",
            "stages.1.norm": "layer2.0.norm_embed",
            "stages.1.blocks.0.norm1": "layer2.1.norm",
            "stages.1.blocks.0.norm2": "layer2.2.norm",
            "stages.1.blocks.0.attention.output": "layer2.1.attn.proj",
            "stages.1.blocks.0.mlp.expand": "layer2.2.mlp.fc1",
            "stages.1.blocks.0.mlp.contract": "layer2.2.mlp.fc2",
        },
        ("norm.weight", "norm.bias", "head.weight", "layer1.1.attn.relative_position_index"),
    ),
    "axial-deeplab-axial_resnet": (
        {"name": "attention_resnet", "depth": 26, "width": 0.125, "axial": {"num_heads": 1, "image_size": 64}},
        {
            "bn1": "bn1",
            "layer2.0.conv1": "layer2.0.conv_down",
            "layer2.0.conv3": "layer2.0.conv_up",
            "layer2.0.bn3": "layer2.0.bn2",
            "layer2.0.downsample.0": "layer2.0.downsample.0",
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
        found, expected = part_of(written, theirs), part_of(ours, own)
        assert found.keys() == expected.keys() != set()
        assert all(torch.equal(found[key], x) for key, x in expected.items())
    state = {**written, **{key: torch.zeros(3, 3) for key in surplus}}
    assert recognise(state) is layout
    assert describe(state, layout)["backbone"] == options
    done = translate(state, layout)
    assert done.unknown == done.errors == [] and len(done.left_out) >= len(surplus)
    assert done.tensors.keys() == ours.keys()
    assert all(torch.equal(done.tensors[key], x) for key, x in ours.items())


def test_vil_s_attention_is_in_parts_of_queries_keys_and_biases():
    vil = randomise(densevit.create_backbone(**VIL))
    state, _ = translate_back(vil.state_dict(), find("vision-longformer"))
    block, theirs = vil.stages[1].blocks[0].attention, "layer2.1.attn."
    for kind in ("weight", "bias"):
        parts = [state[f"{theirs}{part}.{kind}"] for part in ("query", "kv")]
        assert torch.equal(getattr(block.qkv, kind), torch.cat(parts))
        assert torch.equal(state[f"{theirs}kv_global.{kind}"], parts[1])
    assert torch.equal(block.token_bias[:2], state[theirs + "g2l_relative_position_bias"])
    assert torch.equal(block.token_bias[2, :, 0], state[theirs + "g2g_relative_position_bias"][:, 0, 0])


def full_attention(grid: int) -> dict[str, Tensor]:
    """A classifier of ViL with full attention in its last two stages, of grids of 2 * grid and grid."""
    state, _ = translate_back(randomise(densevit.create_backbone(**VIL)).state_dict(), find("vision-longformer"))
    for key in [key for key in state if key.startswith(("layer3", "layer4")) and "_global." in key]:
        del state[key]
    for key in [key for key in state if key.startswith(("layer3", "layer4"))]:
        if ".attn.query." in key:
            parts = state.pop(key), state.pop(key.replace("query", "kv"))
            state[key.replace("query", "qkv")] = torch.cat(parts)
        elif key.endswith("local_relative_position_bias_table"):
            side = 2 * (2 * grid if key.startswith("layer3") else grid) - 1
            state[key] = torch.randn(side**2, state[key].shape[1])
    return state


def test_full_attention_of_vil_is_read_as_windows():
    """Stage 3 has the same offsets; stage 4 those up to 6, in the centre of the table."""
    state, layout = full_attention(7), find("vision-longformer")
    done = translate(state, layout)
    assert done.unknown == done.errors == []
    vil = densevit.create_backbone(**describe(state, layout)["backbone"])
    vil.load_state_dict(done.tensors)
    for key, value in {"layer3.3.": vil.stages[2].blocks[1], "layer4.1.": vil.stages[3].blocks[0]}.items():
        assert torch.equal(value.attention.qkv.weight, state[key + "attn.qkv.weight"])
        table = state[key + "attn.local_relative_position_bias_table"].T
        side, found = math.isqrt(table.shape[1]), value.attention.offset_bias.T.unflatten(1, (27, 27))
        border = (27 - side) // 2
        assert torch.equal(found[:, border : 27 - border, border : 27 - border].flatten(1), table)
        assert torch.equal(found[:, 0, 0], table[:, 0]) and torch.equal(found[:, 26, 13], table[:, -(side // 2) - 1])


def test_checkpoints_of_unknown_sizes_are_refused():
    with pytest.raises(WeightsError, match=r"bias tables .*\[27, 27, 47, 27\]"):
        describe(full_attention(12), find("vision-longformer"))
    deepvit = densevit.create_backbone(**LAYOUTS["deepvit"][0]).state_dict()
    with pytest.raises(WeightsError, match="DeepViT of 100 channels and 8 blocks is not a known variant"):
        deep_vit.describe({**deepvit, "norm.weight": torch.ones(100)})
