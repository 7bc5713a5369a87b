"""Stochastic depth (Huang et al. 2016)."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops residual branches per image and rescales the others to keep the mean."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is {rate:g}; it must be a probability in [0, 1).")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...), the branch before the residual sum."""
        if not self.training or self.rate == 0:
            return x
        keep_prob = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep_prob)
        return x * (mask / keep_prob)

    def extra_repr(self) -> str:
        return f"{self.rate:g}"
