"""Convolution blocks of the hybrid encoder (RT-DETR, Zhao et al. 2024, section 4.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import BatchNorm2d


class ConvNorm(nn.Sequential):
    """A convolution without bias that keeps the size at stride 1, batch norm, and the activation, if there is one."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: Callable[[], nn.Module] | None = nn.SiLU,
    ) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        parts: list[nn.Module] = [convolution, BatchNorm2d(outputs)]
        super().__init__(*parts, *([] if activation is None else [activation()]))

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """Kernel (C', C / groups, k, k) and bias (C',) of the convolution that equals both layers in evaluation
        mode."""
        convolution, norm = self[0], self[1]
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class RepVggBlock(nn.Module):
    """The sum of a 3x3 and a 1x1 convolution, each with batch norm, then SiLU (RepVGG, Ding et al. 2021, section 3.2).

    The block has no identity branch.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = ConvNorm(width, width, 3, activation=None)
        self.pointwise = ConvNorm(width, width, 1, activation=None)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.activation(self.wide(x) + self.pointwise(x))

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """One 3x3 convolution with bias, then SiLU: the block's outputs in evaluation mode (RepVGG, section 3.3)."""
        (kernel, bias), (pointwise, pointwise_bias) = self.wide.affine(), self.pointwise.affine()
        width = len(bias)
        convolution = nn.Conv2d(width, width, 3, padding=1).to(kernel)
        convolution.weight.copy_(kernel + F.pad(pointwise, (1, 1, 1, 1)))
        convolution.bias.copy_(bias + pointwise_bias)  # type: ignore[union-attr]
        return nn.Sequential(convolution, nn.SiLU()).train(self.training)


class CspRepLayer(nn.Module):
    """Cross-stage partial (CSP) fusion: a branch of RepVGG blocks and a branch without, added (RT-DETR, section 4.2).

    expansion: width of both branches, relative to `outputs`; unless it is 1, a 1x1 convolution follows the sum.
    """

    def __init__(self, inputs: int, outputs: int, expansion: float = 1.0, num_blocks: int = 3) -> None:
        super().__init__()
        width = int(outputs * expansion)
        self.enter = ConvNorm(inputs, width, 1)
        self.blocks = nn.Sequential(*(RepVggBlock(width) for _ in range(num_blocks)))
        self.bypass = ConvNorm(inputs, width, 1)
        self.leave = nn.Identity() if width == outputs else ConvNorm(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        return self.leave(self.blocks(self.enter(x)) + self.bypass(x))
