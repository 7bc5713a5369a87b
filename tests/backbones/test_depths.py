"""Depths of parameters, from the input to the last block, and stochastic depth, which rises linearly."""

import pytest
import torch

import densevit

# Of each backbone: the number of depths, and parameters of some of them.
VIT_PARTS = {0: ["stem.projection.weight", "class_token", "position_table"], -1: ["norm.weight"]}
MVIT_PARTS = {0: ["class_token", "positions.cells"], 4: ["stages.2.1.norm1.weight"], -1: ["feature_norms.0.weight"]}
CVT_PARTS = {4: ["class_token", "embeddings.2.projection.weight"], 7: ["feature_norms.2.weight"]}
DEPTHS = [
    ("resnet", {"depth": 50}, 1 + 3 + 4 + 6 + 3, {0: ["conv1.weight"], -1: ["layer4.2.conv1.weight"]}),
    ("resnet", {"depth": 18, "variant": "d"}, 1 + 8, {0: ["conv1.0.weight", "conv1.6.weight"]}),
    # Patch merging has the depth of the block after it.
    ("swin", {"variant": "nano"}, 1 + 6 + 1, {2: ["stages.1.0.norm.weight", "stages.1.1.norm1.weight"]}),
    ("vit", {"variant": "nano", "features": (2, 3), "readout": "project"}, 1 + 3 + 1, VIT_PARTS),
    ("vit", {"variant": "nano", "stem": "resnet", "features": (1, 2)}, 1 + (3 + 4 + 9) + 1 + 2 + 1, {}),
    ("mvit", {"variant": "nano", "version": 1}, 1 + 6 + 1, MVIT_PARTS),
    ("mit", {}, 1 + 8, {2: ["feature_norms.0.weight"], 3: ["patches.1.projection.weight"]}),
    ("cvt", {"variant": "nano"}, 1 + 7, CVT_PARTS),
    ("cycle_mlp", {"variant": "nano"}, 1 + 6, {1: ["feature_norms.0.weight"], 2: ["patches.1.weight"]}),
    ("s2_mlp", {"variant": "nano", "features": (2, 5)}, 1 + 5, {}),
    ("vision_longformer", {"variant": "nano"}, 1 + 5, {2: ["stages.1.tokens"]}),
    ("ceit", {"variant": "nano", "features": (1, 4), "readout": "lca"}, 1 + 4 + 1, {}),
]


@pytest.mark.parametrize(("name", "options", "count", "members"), DEPTHS, ids=str)
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
        ("mvit", {"variant": "tiny", "drop_path": 0.18}, [0.02 * i for i in range(10)]),
        ("mit", {"variant": "b1"}, [0.1 * i / 7 for i in range(8)]),
        ("cvt", {"variant": "nano", "drop_path": 0.3}, [0.0] * 3 + [0.1 * i for i in range(4)]),
        ("s2_mlp", {"variant": "nano", "features": (2, 5)}, [0.1 * i / 7 for i in range(5)]),
        ("vision_longformer", {"variant": "nano"}, [0.1 * i / 4 for i in range(5)]),
    ],
    ids=str,
)
def test_stochastic_depth_rises_linearly_over_the_whole_depth(name, options, rates):
    with torch.device("meta"):
        backbone = densevit.create_backbone(name, **options)
    found = [module.drop_path.rate for module in backbone.modules() if hasattr(module, "drop_path")]
    assert found == pytest.approx(rates)
