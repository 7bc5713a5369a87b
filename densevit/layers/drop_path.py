"""Stochastic depth (Huang et al. 2016)."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a whole residual branch for some images of the batch, and scales the others so that the mean stays."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is {rate:g}; it is a probability, 0 or more and less than 1.")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...), the branch before it is added."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        return f"{self.rate:g}"
