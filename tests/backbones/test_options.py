"""Options of backbones that are refused, depths of parameters, and stochastic depth, which rises linearly."""

import re

import pytest
import torch

import densevit
from densevit.errors import DensevitError
from densevit_backbones.vit.windows import Windows

REFUSED = {
    "resnet": [
        ({"norm_momentum": 1.0}, ["norm_momentum is 1", "above 0 and below 1"]),
        ({"depth": 77}, ["depth"]),
        ({"depth": 18, "groups": 32}, ["groups 32", "depth 18"]),
        ({"norm": "group", "groups": 3, "width_per_group": 5}, ["3 x 5", "32"]),
    ],
    "swin": [
        ({"variant": "nano", "window_size": (7, 7, 7, 0)}, ["window_size is"]),
        ({"variant": "nano", "pretrained_window_sizes": (7, 7, 7, 7)}, ["pretrained_window_sizes", "version 2"]),
    ],
    "vit": [
        ({"patch_size": 10}, ["patch_size"]),
        ({"readout": "add", "class_token": False}, ["class_token is false", "readout 'add'"]),
        ({"patch_size": 14, "stem": "conv"}, ["patch_size is 14", "stem 'conv'", "8 or 16 or 32"]),
        ({"drop_path": 1.0}, ["drop_path is 1"]),
        ({"variant": "nano", "windows": Windows(4, (7,))}, ["global_blocks is [7]", "ascending"]),
        ({"windows": Windows(4, (5,)), "features": (2,)}, ["global_blocks has none of the 2 blocks"]),
        ({"variant": "nano", "features": (0, 1)}, ["features is [0, 1]", "from 1 to 6"]),
    ],
    "mvit": [
        ({"variant": "tiny", "version": 1}, ["version 1", "nano, base, large"]),
        ({"window_size": 12}, ["window_size is 12", "multiple of 8"]),
        ({"window_size": 56, "class_token": True}, ["window_size", "class token"]),
        ({"variant": "nano", "class_token_residual": False, "version": 1}, ["class_token_residual", "version: 2"]),
    ],
    "mit": [({"norm_eps": 0.0}, ["norm_eps is 0"])],
    "local_vit": [
        ({"activation": "relu6", "se_reduction": 4}, ["se_reduction is 4", "'relu6'"]),
    ],
    "s2_mlp": [
        ({"variant": "nano", "features": (3, 2)}, ["features is [3, 2]", "1 to 8"]),
        ({"drop_path": 1.0}, ["drop_path is 1"]),
    ],
    "windowed_vit": [
        ({"patch_size": 20}, ["patch_size", "12, 14 or 16"]),
        ({"variant": "lw_tiny", "registers": 2}, ["registers is 2", "'lw_tiny'", "must be 0"]),
    ],
    "vision_longformer": [({"window_size": 0}, ["window_size is 0"]), ({"global_tokens": -1}, ["global_tokens is -1"])],
}


@pytest.mark.parametrize(
    ("name", "options", "facts"), [(name, *row) for name, rows in REFUSED.items() for row in rows], ids=str
)
def test_invalid_options_are_refused(name, options, facts):
    with pytest.raises((ValueError, DensevitError), match=".*".join(map(re.escape, facts))):
        densevit.create_backbone(name, **options)


# Of each backbone: the number of depths, and parameters of some of them.
VIT_PARTS = {0: ["stem.projection.weight", "class_token", "position_table"], -1: ["norm.weight"]}
MVIT_PARTS = {0: ["class_token", "positions.cells"], 4: ["stages.2.1.norm1.weight"], -1: ["feature_norms.0.weight"]}
CVT_PARTS = {4: ["class_token", "embeddings.2.projection.weight"], 7: ["feature_norms.2.weight"]}


@pytest.mark.parametrize(
    ("name", "options", "count", "members"),
    [
        ("resnet", {"depth": 50}, 1 + 3 + 4 + 6 + 3, {0: ["conv1.weight"], -1: ["layer4.2.conv1.weight"]}),
        # Patch merging has the depth of the block after it.
        ("swin", {"variant": "nano"}, 1 + 6 + 1, {2: ["stages.1.0.norm.weight", "stages.1.1.norm1.weight"]}),
        ("vit", {"variant": "nano", "features": (2, 3), "readout": "project"}, 1 + 3 + 1, VIT_PARTS),
        ("vit", {"variant": "nano", "stem": "resnet", "features": (1, 2)}, 1 + (3 + 4 + 9) + 1 + 2 + 1, {}),
        ("windowed_vit", {"features": (2, 5)}, 1 + 5 + 1, VIT_PARTS),
        ("mvit", {"variant": "nano", "version": 1}, 1 + 6 + 1, MVIT_PARTS),
        ("mit", {}, 1 + 8, {2: ["feature_norms.0.weight"], 3: ["patches.1.projection.weight"]}),
        ("gtr", {}, 1 + 12, {0: ["stem.0.weight"], 12: ["blocks.11.mlp.contract.weight"]}),
        ("cvt", {"variant": "nano"}, 1 + 7, CVT_PARTS),
    ],
    ids=str,
)
def test_depths_are_the_stem_and_the_blocks(name, options, count, members):
    with torch.device("meta"):
        backbone = densevit.create_backbone(name, **options)
    names = {id(parameter): key for key, parameter in backbone.named_parameters()}
    depths = [{names[id(parameter)] for parameter in group} for group in backbone.parameter_depths()]
    assert len(depths) == count
    for depth, own in members.items():
        assert depths[depth] >= {*own}


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        ("swin", {"variant": "tiny", "drop_path": 0.22}, [0.02 * i for i in range(12)]),
        ("vit", {"variant": "small", "drop_path": 0.22, "features": (3, 9)}, [0.02 * i for i in range(9)]),
        ("windowed_vit", {"drop_path": 0.22, "features": (3, 9)}, [0.02 * i for i in range(9)]),
        ("mvit", {"variant": "tiny", "drop_path": 0.18}, [0.02 * i for i in range(10)]),
        ("mit", {"variant": "b1"}, [0.1 * i / 7 for i in range(8)]),
        ("gtr", {"drop_path": 0.22}, [0.02 * i for i in range(12)]),
    ],
    ids=str,
)
def test_stochastic_depth_rises_linearly_over_the_whole_depth(name, options, rates):
    with torch.device("meta"):
        backbone = densevit.create_backbone(name, **options)
    found = [module.drop_path.rate for module in backbone.modules() if hasattr(module, "drop_path")]
    assert found == pytest.approx(rates)
