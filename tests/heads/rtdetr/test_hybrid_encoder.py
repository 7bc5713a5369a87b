"""RT-DETR's convolution blocks, merged for prediction."""

import pytest
import torch
from torch import nn

from densevit_heads.rtdetr.convolutions import RepVggBlock


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


@pytest.mark.parametrize("width", [1, 7, 16])
def test_a_merged_block_is_one_convolution_with_equal_outputs(width: int):
    block = randomised(RepVggBlock(width))
    x = torch.randn(2, width, 9, 6)
    merged = block.merged()
    torch.testing.assert_close(merged(x), block(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in merged.parameters()) == 9 * width**2 + width
    assert [type(m) for m in merged.modules() if not isinstance(m, nn.Sequential)] == [nn.Conv2d, nn.SiLU]
