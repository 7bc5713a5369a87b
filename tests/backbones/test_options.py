"""Options of backbones that are refused, with what was given and what is expected."""

import re

import pytest

import densevit
from densevit.errors import DensevitError
from densevit_backbones.vit.windows import Windows

REFUSED = {
    "resnet": [
        ({"depth": 77}, ["depth"]),
        ({"norm": "layer"}, ["norm"]),
        ({"frozen_stages": 6}, ["frozen_stages"]),
        ({"variant": "c"}, ["variant"]),
        ({"norm_eps": 0.0}, ["norm_eps is 0"]),
        ({"depth": 18, "groups": 32}, ["groups 32", "depth 18"]),
        ({"depth": 34, "width_per_group": 128}, ["width_per_group 128", "50, 101 or 152"]),
        ({"groups": 0}, ["groups is 0"]),
        ({"width_per_group": -4}, ["width_per_group is -4"]),
        ({"norm": "group", "groups": 3, "width_per_group": 5}, ["3 x 5", "32"]),
    ],
    "swin": [
        ({"variant": "huge"}, ["variant"]),
        ({"variant": "nano", "window_size": 0}, ["window_size is"]),
        ({"variant": "nano", "window_size": (7, 7, 7, 0)}, ["window_size is"]),
        ({"variant": "nano", "pretrained_window_sizes": (7, 7, 7, 7)}, ["pretrained_window_sizes", "version 2"]),
    ],
    "vit": [
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
        ({"variant": "nano", "windows": Windows(4, (7,))}, ["global_blocks is [7]", "ascending"]),
        ({"variant": "nano", "windows": Windows(4, ())}, ["global_blocks has none"]),
        ({"windows": Windows(4, (5,)), "features": (2,)}, ["global_blocks has none of the 2 blocks"]),
        ({"features": ()}, ["features is []"]),
        ({"features": (3, 3)}, ["features is [3, 3]"]),
        ({"variant": "nano", "features": (0, 1)}, ["features is [0, 1]", "from 1 to 6"]),
    ],
    "mvit": [
        ({"variant": "huge"}, ["variant"]),
        ({"variant": "tiny", "version": 1}, ["version 1", "nano, base, large"]),
        ({"image_size": 0}, ["image_size"]),
        ({"window_size": 12}, ["window_size is 12", "multiple of 8"]),
        ({"window_size": 0}, ["window_size is 0", "multiple of 8"]),
        ({"window_size": 56, "class_token": True}, ["window_size", "class token"]),
        ({"class_token_residual": False}, ["class_token_residual: false", "class token"]),
        ({"variant": "nano", "class_token_residual": False, "version": 1}, ["class_token_residual", "version: 2"]),
    ],
    "mit": [({"norm_eps": 0.0}, ["norm_eps is 0"])],
    "ceit": [
        ({"features": (3, 2)}, ["features is [3, 2]", "1 to 12"]),
        ({"features": (13,)}, ["features is [13]"]),
        ({"image_size": 0}, ["image_size is 0"]),
    ],
    "local_vit": [
        ({"activation": "relu6", "se_reduction": 4}, ["se_reduction is 4", "'relu6'"]),
        ({"se_reduction": 0}, ["se_reduction is 0", "1 to 768"]),
        ({"features": (3, 2)}, ["features is [3, 2]", "1 to 12"]),
        ({"image_size": 0}, ["image_size is 0"]),
    ],
    "s2_mlp": [
        ({"patch_size": 0}, ["patch_size is 0"]),
        ({"variant": "nano", "features": (3, 2)}, ["features is [3, 2]", "1 to 8"]),
        ({"variant": "nano", "features": (9,)}, ["features is [9]"]),
        ({"drop_path": 1.0}, ["drop_path is 1"]),
    ],
    "vision_longformer": [({"window_size": 0}, ["window_size is 0"]), ({"global_tokens": -1}, ["global_tokens is -1"])],
}


@pytest.mark.parametrize(
    ("name", "options", "facts"), [(name, *row) for name, rows in REFUSED.items() for row in rows], ids=str
)
def test_invalid_options_are_refused(name, options, facts):
    with pytest.raises((ValueError, DensevitError), match=".*".join(map(re.escape, facts))):
        densevit.create_backbone(name, **options)
