"""ViT's layer depths, selected features, tokens and rotary windows; options that are refused."""

import re

import pytest
import torch
from torch.nn import functional as F

import densevit
from densevit.errors import DensevitError
from densevit.layers.rotary import rotary_table, rotate
from densevit_backbones.vit import ViT
from densevit_backbones.vit.windows import Windows


def nano(**options) -> ViT:
    return densevit.create_backbone("vit", variant="nano", **options)


def test_layer_depths_increase_from_input_to_output():
    vit = nano(features=(2, 3), readout="project")
    names = {id(p): name for name, p in vit.named_parameters()}
    first, *blocks, last = [{re.sub(r"(\d)\..*", r"\1", names[id(p)]) for p in g} for g in vit.parameter_depths()]
    tokens = {"class_token", "position_table"}
    assert first == {"stem.projection.weight", "stem.projection.bias"} | tokens
    assert blocks == [{"blocks.0"}, {"blocks.1"}, {"blocks.2"}]
    assert last == {"norm.weight", "norm.bias", "readouts.0", "readouts.1"}
    hybrid = nano(stem="resnet", readout="project", features=(1, 2))
    assert len(hybrid.parameter_depths()) == 1 + (3 + 4 + 9) + 1 + 2 + 1
    with torch.device("meta"):
        blocks = ViT("small", drop_path=0.22, features=(3, 9)).blocks
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.02 * i for i in range(9)])


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


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ({"variant": "giga"}, ["variant"]),
        ({"patch_size": 12}, ["patch_size"]),
        ({"stem": "mlp"}, ["stem"]),
        ({"positions": "2d"}, ["positions"]),
        ({"readout": 1}, ["readout"]),
        ({"readout": "add", "class_token": False}, ["readout is 'add'", "class_token is false"]),
        ({"distillation_token": True, "class_token": False}, ["distillation_token is true", "class_token is false"]),
        ({"registers": -1}, ["registers is -1"]),
        ({"patch_size": 14, "stem": "conv"}, ["patch_size is 14", "stem 'conv'", "8 or 16 or 32"]),
        ({"patch_size": 8, "stem": "resnet"}, ["patch_size is 8", "stem 'resnet'", "16"]),
        ({"image_size": 0}, ["image_size is 0"]),
        ({"layer_scale": 0.0}, ["layer_scale is 0"]),
        ({"drop_path": 1.0}, ["drop_path is 1"]),
        ({"windows": {"size": 0}}, ["size is 0"]),
        ({"windows": Windows(4, (7,))}, ["global_blocks is [7]", "ascending"]),
        ({"windows": Windows(4, ())}, ["global_blocks has none"]),
        ({"windows": Windows(4, (5,)), "features": (2,)}, ["global_blocks has none of the 2 blocks"]),
        ({"features": ()}, ["features is []"]),
        ({"features": (3, 3)}, ["features is [3, 3]"]),
        ({"features": (0, 1)}, ["features is [0, 1]", "from 1 to 6"]),
    ],
    ids=str,
)
def test_invalid_options_are_refused(options, facts):
    with pytest.raises((ValueError, DensevitError), match=".*".join(map(re.escape, facts))):
        densevit.create_backbone("vit", **{"variant": "nano", **options})
