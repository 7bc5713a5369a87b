"""Features and input gradients match timm and transformers with the same random weights; tokens and rotary windows."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import densevit
from densevit.layers.rotary import rotary_table, rotate
from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows

FROM_VITDET = [
    (r"^embeddings\.projection\.", "stem.projection."),
    (r"^embeddings\.position_embeddings$", "position_table"),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.proj\.", ".attention.output."),
    (r"\.mlp\.fc1\.", ".mlp.expand."),
    (r"\.mlp\.fc2\.", ".mlp.contract."),
]


@pytest.mark.integration
def test_windowed_blocks_match_transformers_vitdet(randomise, assert_equal_features):
    """A grid of 10x10 cells, not divisible into windows of 4."""
    from transformers import VitDetConfig, VitDetModel

    config = VitDetConfig(
        hidden_size=128, num_hidden_layers=6, num_attention_heads=4, image_size=80, pretrain_image_size=80,
        patch_size=8, window_size=4, window_block_indices=[0, 3], drop_path_rate=0.0,
    )  # fmt: skip
    options = {"patch_size": 8, "image_size": 80, "class_token": False, "feature_norm": False}
    vit = ViT("nano", windows=Windows(4), features=(1, 2, 4, 6), **options).eval()
    reference = VitDetModel(config).eval()
    assert [block.window is not None for block in vit.blocks] == [True, False, False, True, False, False]
    randomise(vit)
    randomise(reference)
    state = reference.state_dict()
    for key in [*state]:
        name = key
        for pattern, replacement in FROM_VITDET:
            name = re.sub(pattern, replacement, name)
        state[name] = state.pop(key)
    state["position_table"] = state["position_table"][0, 1:].view(10, 10, -1)  # without that of a class token
    vit.load_state_dict(state)

    def features(images: Tensor) -> list[Tensor]:
        states = reference(images, output_hidden_states=True).hidden_states
        return [states[i] for i in vit.feature_blocks]

    assert_equal_features(vit, features, torch.randn(2, 3, 80, 80))


@pytest.mark.integration
def test_an_added_readout_matches_transformers_dpt(randomise):
    """Projections are compared with the authors' in tests/weights/layouts."""
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTReassembleStage

    vit = ViT("nano", readout="add", registers=2, feature_norm=False).eval()
    randomise(vit)
    config = DPTConfig(hidden_size=128, num_attention_heads=4, readout_type="add", neck_ignore_stages=[])
    stage = DPTReassembleStage(config)
    stage.layers = nn.ModuleList(nn.Identity() for _ in range(4))
    tokens: list[Tensor] = []
    for block in vit.feature_blocks:
        vit.blocks[block - 1].register_forward_hook(lambda module, inputs, x: tokens.append(x))
    found = vit(torch.randn(2, 3, 50, 80))
    theirs = stage([torch.cat([x[:, :1], x[:, 3:]], dim=1) for x in tokens], 4, 5)
    for x, y in zip(found, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def nano(**options) -> ViT:
    return densevit.create_backbone("vit", variant="nano", **options)


def test_features_are_of_four_blocks_by_default():
    assert len(nano(features=(2, 3)).blocks) == 3
    assert nano().feature_blocks == (2, 3, 5, 6) and ViT("tiny").feature_blocks == (3, 6, 9, 12)


def test_tokens_take_part_in_global_attention_only(randomise):
    vit = nano(windows=Windows(2, (2,)), registers=1, features=(2,), layer_scale=0.5)
    randomise(vit)
    windowed, whole = vit.blocks
    x = torch.randn(1, 2 + 3 * 5, 128)
    with torch.no_grad():
        found = windowed(x, (3, 5))[:, :2]
        expected = x[:, :2] + windowed.scale2(windowed.mlp(windowed.norm2(x[:, :2])))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        changed = x.clone()
        changed[:, 0] += torch.randn(128)
        assert torch.equal(windowed(changed, (3, 5))[:, 2:], windowed(x, (3, 5))[:, 2:])
        assert (whole(changed, (3, 5)) - whole(x, (3, 5)))[:, 2:].abs().amax(-1).min() > 1e-4


def test_rotary_windows_use_offsets_on_the_whole_grid(randomise):
    """A windowed block matches attention over the whole grid with positions of the whole grid, masked to windows."""
    grid, M = (4, 6), 2
    vit = nano(positions="rotary", windows=Windows(M), class_token=False)
    randomise(vit)
    attend = vit.blocks[0].attention
    x = torch.randn(2, 24, 128)
    row, column = torch.arange(24) // 6 // M, torch.arange(24) % 6 // M
    same = (row[:, None] == row) & (column[:, None] == column)
    query, key, value = attend.qkv(x).view(2, 24, 3, 4, 32).permute(2, 0, 3, 1, 4)
    table = rotary_table(grid, 32, x.device)
    mixed = F.scaled_dot_product_attention(rotate(query, table), rotate(key, table), value, attn_mask=same)
    expected = attend.output(mixed.transpose(1, 2).reshape(2, 24, 128))
    _, part = vit._rotations(grid, 0, x)
    found = vit.blocks[0]._in_windows(x, M, grid, part)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
