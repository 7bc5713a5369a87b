"""Multilayer perceptrons of transformers."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.precision import at_least_fp32, autocast_off


class FeedForward(nn.Module):
    """Feed-forward network (FFN) of a transformer block: two linear layers with an activation between them."""

    def __init__(
        self, width: int, hidden: int, activation: Callable[[], nn.Module] = nn.GELU, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        tokens = x.flatten(0, -2)  # (N, C)
        return self.contract(self.dropout(self.activation(self.expand(tokens)))).unflatten(0, x.shape[:-1])


class Mlp(nn.Sequential):
    """`num_layers` linear layers of width `hidden` with an activation between them, ReLU in DETR's box head."""

    def __init__(
        self, width: int, hidden: int, out: int, num_layers: int, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        sizes = [width] + [hidden] * (num_layers - 1) + [out]
        parts: list[nn.Module] = []
        for i in range(num_layers):
            parts += [nn.Linear(sizes[i], sizes[i + 1])] + ([activation()] if i < num_layers - 1 else [])
        super().__init__(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., out)."""
        return super().forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])

    def in_full_precision(self, x: Tensor) -> Tensor:
        """forward(x) in at least fp32, for coordinates: bf16 would round boxes to half a pixel in 128."""
        with autocast_off(x.device):
            weight = self.last.weight
            if at_least_fp32(weight) is weight:
                return self(x.to(weight.dtype))
            x = x.float()
            for layer in self:
                x = F.linear(x, layer.weight.float(), layer.bias.float()) if isinstance(layer, nn.Linear) else layer(x)
            return x

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        return cast(nn.Linear, self[-1])
