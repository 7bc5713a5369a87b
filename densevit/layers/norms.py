"""Normalisation layers that torch does not have as detectors need them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants, as fine-tuned detectors use it.

    Its state has the keys of `nn.BatchNorm2d`, so that classification weights load into it.
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
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        # One pass; on a CPU it takes less time than batch norm's own kernel, whose backward pass reads x again.
        return torch.addcmul(shift[:, None, None].to(x.dtype), x, scale[:, None, None].to(x.dtype))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a map, (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """Batch norm over the batches of all processes (torch's), on GPUs; on a CPU each process goes by its own batch.

    Where there is one process it is ordinary batch norm, on any device.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if x.device.type == "cpu":  # torch's own refuses as soon as there are several processes
            return nn.BatchNorm2d.forward(self, x)
        return super().forward(x)


class CountedOnce(nn.Module):
    """A part of which only the first run moves the running statistics of the batch norms in it.

    Activation checkpointing runs a part again in the backward pass, and statistics would then count each batch twice.
    One of these is good for one forward pass.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.counted = part, False

    def forward(self, x: Tensor) -> Tensor:
        if self.counted:
            with _statistics_stand_still(self.part):
                return self.part(x)
        self.counted = True
        return self.part(x)


@contextmanager
def _statistics_stand_still(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise as ever, but do not count: a momentum of 0, since without statistics they save less."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
