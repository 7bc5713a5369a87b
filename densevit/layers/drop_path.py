"""Stochastic depth (Huang et al. 2016)."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops residual branches per image and rescales the others to keep the mean."""

    keep_prob: Tensor | None

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is {rate:g}; it must be a probability in [0, 1).")
        self.rate = rate
        self.register_buffer("keep_prob", torch.tensor(1 - rate) if rate else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...), the branch before the residual sum."""
        if not self.training or self.keep_prob is None:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        if torch.compiler.is_compiling():  # a number would be compiled in, and each block has a different rate
            mask = (torch.rand(shape, device=x.device) < self.keep_prob) / self.keep_prob
            return x * mask.to(x.dtype)
        keep_prob = 1 - self.rate
        return x * (x.new_empty(shape).bernoulli_(keep_prob) / keep_prob)

    def extra_repr(self) -> str:
        return f"{self.rate:g}"
