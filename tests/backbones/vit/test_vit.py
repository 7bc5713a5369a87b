"""ViT's selected features, tokens and rotary windows."""

import torch
from torch.nn import functional as F

import densevit
from densevit.layers.rotary import rotary_table, rotate
from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows


def nano(**options) -> ViT:
    return densevit.create_backbone("vit", variant="nano", **options)


def test_features_follow_the_selected_blocks(randomise):
    vit = nano(features=(1, 4, 6), feature_norm=False).eval()
    randomise(vit)
    states = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, x: states.append(x))
    features = vit(torch.randn(1, 3, 48, 64))
    for x, number in zip(features, (1, 4, 6), strict=True):
        assert torch.equal(x.flatten(2).transpose(1, 2), states[number - 1][:, 1:])
    normed = nano(features=(1, 4, 6)).eval()
    assert len(nano(features=(2, 3)).blocks) == 3
    assert normed.feature_blocks == (1, 4, 6) and nano().feature_blocks == (2, 3, 5, 6)
    assert ViT("tiny").feature_blocks == (3, 6, 9, 12)


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
