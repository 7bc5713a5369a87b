"""HGNetv2, D-FINE's backbone, as the plugin `timm` has it, against transformers' HGNetV2Backbone."""

import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import HGNetV2Backbone


pytestmark = pytest.mark.integration

# Of the authors' table: stem; inner and output channels, blocks of each stage; layers of a block.
VARIANTS: dict[str, tuple[list[int], list[int], list[int], list[int], int]] = {
    "b0": ([16, 16], [16, 32, 64, 128], [64, 256, 512, 1024], [1, 1, 2, 1], 3),
    "b1": ([24, 32], [32, 48, 96, 192], [64, 256, 512, 1024], [1, 1, 2, 1], 3),
    "b2": ([24, 32], [32, 64, 128, 256], [96, 384, 768, 1536], [1, 1, 3, 1], 4),
    "b3": ([24, 32], [32, 64, 128, 256], [128, 512, 1024, 2048], [1, 1, 3, 1], 5),
    "b4": ([32, 48], [48, 96, 192, 384], [128, 512, 1024, 2048], [1, 1, 3, 1], 6),
    "b5": ([32, 64], [64, 128, 256, 512], [128, 512, 1024, 2048], [1, 2, 5, 2], 6),
}


def transformers_model(name: str) -> "HGNetV2Backbone":
    from transformers import HGNetV2Backbone, HGNetV2Config

    stem, middle, outputs, blocks, layers = VARIANTS[name]
    config = HGNetV2Config(
        stem_channels=[3, *stem],
        embedding_size=stem[-1],
        hidden_sizes=outputs,
        stage_in_channels=[stem[-1], *outputs[:-1]],
        stage_mid_channels=middle,
        stage_out_channels=outputs,
        stage_num_blocks=blocks,
        stage_numb_of_layers=[layers] * 4,
        use_learnable_affine_block=name in ("b0", "b1", "b2", "b3"),
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return HGNetV2Backbone(config).eval()


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    torch.manual_seed(0)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith(("weight", "scale")) else 0.0, 0.3)
        elif tensor.ndim:
            tensor.normal_(0.0, (2 / tensor[0].numel()) ** 0.5)


def timm_name(name: str) -> str:
    name = re.sub(r"^embedder\.", "stem.", name)
    name = re.sub(r"^encoder\.", "", name)
    return "model." + name.replace(".convolution.", ".conv.").replace(".normalization.", ".bn.")


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_maps_match_transformers_at_any_size(name: str):
    from densevit_backbones.timm import Timm

    theirs = transformers_model(name)
    randomise(theirs)
    ours = Timm(f"hgnetv2_{name}").eval()
    ours.load_state_dict({timm_name(key): x for key, x in theirs.state_dict().items()})
    assert ours.channels == tuple(VARIANTS[name][2]) and ours.strides == (4, 8, 16, 32)
    assert ours.multiple == (1, 1) and not any(ours.resampled)
    for size in ((64, 96), (61, 130)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        for x, y in zip(ours(images), theirs(images).feature_maps, strict=True):
            assert y.std() > 0.01
            torch.testing.assert_close(x, y, atol=1e-4 * y.abs().max().item(), rtol=1e-4)


def test_gradients_match_transformers():
    from densevit_backbones.timm import Timm

    theirs: Any = transformers_model("b0")
    randomise(theirs)
    ours = Timm("hgnetv2_b0").eval()
    ours.load_state_dict({timm_name(key): x for key, x in theirs.state_dict().items()})
    images = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    torch.stack([x.square().mean() for x in ours(images)]).sum().backward()
    torch.stack([x.square().mean() for x in theirs(images).feature_maps]).sum().backward()
    own = dict(ours.named_parameters())
    for key, parameter in theirs.named_parameters():
        gradient = parameter.grad
        scale = gradient.abs().max().item()
        assert scale > 0, key
        torch.testing.assert_close(own[timm_name(key)].grad, gradient, atol=1e-4 * scale, rtol=1e-3)
