import pytest
import torch
from torch import nn
from torch.nn import functional as F

from densevit.set_prediction.transformer import Transformer
from densevit_heads.rtdetr.convolutions import ConvNorm, CspRepLayer, RepVggBlock
from densevit_heads.rtdetr.hybrid_encoder import HybridEncoder, HybridEncoderOptions

CHANNELS, STRIDES = (6, 8, 10, 12), (4, 8, 16, 32)


def randomised(module: nn.Module) -> nn.Module:
    """All parameters and statistics random, norms away from their initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.abs_().add_(0.1)
    return module.eval()


def make_encoder(channels=CHANNELS, strides=STRIDES, num_levels=3, min_stride=8) -> HybridEncoder:
    return HybridEncoder(
        channels,
        strides,
        HybridEncoderOptions(16, 24, 0.5),
        Transformer(num_heads=4, width=16, encoder_layers=1, dropout=0.0),
        num_levels,
        min_stride,
        lateral=lambda width: ConvNorm(width, width, 1),
        fuse=lambda width: CspRepLayer(2 * width, width, 0.5),
        downsample=lambda width: ConvNorm(width, width, 3, stride=2),
    )


def features(height: int, width: int, channels=CHANNELS, strides=STRIDES, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, -(-height // stride), -(-width // stride), generator=generator)
        for count, stride in zip(channels, strides, strict=True)
    ]


@pytest.mark.parametrize("width", [1, 7, 16])
def test_a_merged_block_is_one_convolution_with_equal_outputs(width: int):
    block = randomised(RepVggBlock(width))
    x = torch.randn(2, width, 9, 6)
    merged = block.merged()
    torch.testing.assert_close(merged(x), block(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in merged.parameters()) == 9 * width**2 + width
    assert [type(m) for m in merged.modules() if not isinstance(m, nn.Sequential)] == [nn.Conv2d, nn.SiLU]


def test_features_of_padding_change_nothing():
    """Whatever a backbone computes for padding, the cells of the image are equal."""
    encoder, x = randomised(make_encoder()), features(64, 96)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 64:] = True
    masks = [F.max_pool2d(padding[:, None].float(), stride).bool() for stride in STRIDES]
    changed = [f.masked_fill(mask, 9.0) for f, mask in zip(x, masks, strict=True)]
    for a, b in zip(encoder(x, padding)[0], encoder(changed, padding)[0], strict=True):
        torch.testing.assert_close(a, b)
