"""Normalisation layers that torch lacks or that behave differently here, and a convolution with its norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm without the update of `num_batches_tracked`, which only a cumulative average needs."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        assert self.momentum is not None
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with fixed statistics and affine parameters, as usual in detectors.

    Has the state-dict keys of `nn.BatchNorm2d`, so that classification weights can be loaded.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        scale, shift = self.affine()
        # On a CPU this is faster than the batch norm kernel, whose backward pass reads x again.
        return torch.addcmul(shift.view(-1, 1, 1).to(x.dtype), x, scale.view(-1, 1, 1).to(x.dtype))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, (C,) each."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, torch.addcmul(self.bias, self.running_mean, scale, value=-1)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a feature map (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Group norm that accepts groups of a single value, such as one channel of a 1x1 map; their result is the bias.

    torch's layer refuses such groups for a batch of one image, although statistics are computed per image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps, torch.backends.cudnn.enabled)


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """torch's synchronised batch norm on GPUs; on a CPU, or with one process, ordinary batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if x.device.type == "cpu":  # torch's layer raises on a CPU with several processes
            return nn.BatchNorm2d.forward(self, x)
        return super().forward(x)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, relu: bool = True, residual: Tensor | None = None) -> Tensor:
    """norm(conv(x)) + residual, then ReLU (He et al. 2016, figure 5). conv: the convolution, without bias. x: (B, C, H,
    W). residual: (B, C', H', W'), the shape of the result. Modules keep this function in an attribute, which
    `densevit.layers.fast` replaces.
    """
    return add_relu(norm(conv(x)), relu, residual)


def add_relu(y: Tensor, relu: bool, residual: Tensor | None) -> Tensor:
    """y + residual, then ReLU, in place: neither convolutions nor norms need their result in the backward pass."""
    if residual is not None:
        y = y.add_(residual)
    return y.relu_() if relu else y
