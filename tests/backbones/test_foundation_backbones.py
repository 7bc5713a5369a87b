"""Foundation backbones of timm under the heads: docs/development/timm.md's table, and complete runs."""

import sys

import pytest
import torch

import densevit
from densevit import config as configs
from densevit.errors import ConfigError
from tests.training.runs import train


@pytest.fixture(scope="module")
def tool(project):
    """The module tools/foundation_table.py."""
    sys.path.insert(0, str(project / "tools"))
    try:
        import foundation_table

        yield foundation_table
    finally:
        sys.path.remove(str(project / "tools"))


@pytest.fixture(scope="module")
def page(project, tool):
    """The rows of the page's table by backbone."""
    text = (project / "docs/development/timm.md").read_text()
    table = text.partition(tool.BEGIN)[2].partition(tool.END)[0].strip()
    header = tool.header()
    assert table.startswith(header.strip())
    lines = [f"{line}\n" for line in table.splitlines()[2:]]
    return {line.split("|")[1].strip(): line for line in lines}


@pytest.mark.slow
def test_every_row_is_reproduced(page, tool):
    assert {backbone: tool.row(backbone) for backbone in tool.FOUNDATION} == page


@pytest.mark.integration
def test_run_of_a_frozen_foundation_backbone(tool, tmp_path):
    run = train(
        tool.config_of("DINOv2 with registers", "deformable_detr", freeze=True, weights="random"), tmp_path / "run"
    )
    assert densevit.load(run).predict(torch.zeros(3, 50, 60, dtype=torch.uint8)) is not None


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


@pytest.mark.parametrize(
    ("name", "model_args"),
    [
        ("convnext_tiny", {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}),
        ("eva02_tiny_patch14_224", {"depth": 4}),  # it normalises after pooling
    ],
)
def test_feature_norm_is_new_where_a_model_has_none(name, model_args, randomise):
    from densevit_backbones.timm import Timm

    backbone = Timm(name, feature_norm=True, model_args=model_args).eval()
    randomise(backbone)
    raw = Timm(name, model_args=model_args).eval()
    raw.model.load_state_dict(backbone.model.state_dict())
    images = torch.randn(2, 3, 70, 45)
    with torch.no_grad():
        for x, y, norm in zip(backbone(images), raw(images), backbone.feature_norms, strict=True):
            expected = torch.nn.functional.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2], norm.weight, norm.bias, 1e-6)
            torch.testing.assert_close(x, expected.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)
    depths = backbone.parameter_depths()
    assert {id(p) for p in depths[-1]} == {id(p) for p in backbone.feature_norms.parameters()}


# ---- invalid input ----


def test_data_of_another_size_than_the_fixed_one_is_an_error(tool, tmp_path):
    config = configs.with_overrides(tool.config_of("Hiera", "setr"), ["data.image_size=96"])
    with pytest.raises(ConfigError, match=r"64x64 only, but data\.image_size is 96.*data\.image_size=\[64,64\]"):
        train(config, tmp_path / "run")
