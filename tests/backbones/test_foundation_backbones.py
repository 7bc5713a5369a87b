"""Foundation backbones of timm under the heads: a run of a frozen one, and the norms of its maps."""

from typing import Any

import pytest
import torch

from densevit import config as configs
from densevit.errors import ConfigError
from tests.training.runs import train


def config_of(backbone: dict[str, Any], head: dict[str, Any], side: int = 64) -> configs.Config:
    """A training of one step."""
    return configs.from_mapping({
        "backbone": {"name": "timm", "feature_norm": True, **backbone},
        "heads": {"head": head},
        "data": {"name": "scenes", "image_size": side, "batch_size": 2, "num_workers": 0}
        | {"train_length": 2, "val_length": 1},
        "optim": {"lr": 1e-3},
        "trainer": {"max_steps": 1, "precision": "32", "accelerator": "cpu", "log_every": 1},
    })  # fmt: skip


# ---- feature_norm ----


def test_feature_norm_is_the_final_norm_of_each_map(randomise):
    """The last map is timm's `forward_features`; the others are the raw maps, normalised by hand."""
    import timm

    from densevit_backbones.timm import Timm

    name, model_args = "vit_small_patch14_reg4_dinov2", {"depth": 4, "embed_dim": 64, "num_heads": 2}
    backbone = Timm(name, feature_norm=True, model_args=model_args).eval()
    randomise(backbone)
    reference = timm.create_model(name, dynamic_img_size=True, **model_args).eval()
    assert not reference.load_state_dict(backbone.model.state_dict(), strict=False).unexpected_keys
    raw = Timm(name, model_args=model_args).eval()
    raw.model.load_state_dict(backbone.model.state_dict(), strict=False)
    images = torch.randn(2, 3, 4 * backbone.strides[0], 6 * backbone.strides[0])
    norm = reference.norm
    with torch.no_grad():
        tokens = reference.forward_features(images)[:, reference.num_prefix_tokens :]  # (B, 24, C)
        maps = backbone(images)
        torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens, atol=1e-4, rtol=1e-4)
        for x, y in zip(maps, raw(images), strict=True):
            expected = torch.nn.functional.layer_norm(
                y.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps
            )
            torch.testing.assert_close(x, expected.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)
    depths = [{id(p) for p in group} for group in backbone.parameter_depths()]
    assert {id(p) for p in backbone.model.norm.parameters()} <= depths[-1]


# ---- invalid input ----


def test_data_of_another_size_than_the_fixed_one_is_an_error(tmp_path):
    hiera = {"model": "hiera_tiny_224.mae", "image_size": 64}
    hiera |= {"model_args": {"embed_dim": 48, "num_heads": 1, "stages": (1, 1, 2, 1)}}
    config = config_of(hiera, {"name": "setr", "width": 16, "auxiliary": [], "norm": "group"}, side=96)
    with pytest.raises(ConfigError, match=r"64x64 only, but data\.image_size is 96.*data\.image_size=\[64,64\]"):
        train(config, tmp_path / "run")
