"""The perceptrons of transformers."""

from typing import cast

from torch import Tensor, nn

from densevit.layers.linear import Linear


class FeedForward(nn.Module):
    """Two linear layers with an activation between, as in every transformer block."""

    def __init__(self, width: int, hidden: int, activation: type[nn.Module] = nn.GELU, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = Linear(width, hidden)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.contract = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.contract(self.dropout(self.activation(self.expand(x))))


class Mlp(nn.Sequential):
    """Linear layers with ReLU between: `num_layers` of them, `hidden` wide inside (DETR's box head)."""

    def __init__(self, width: int, hidden: int, out: int, num_layers: int) -> None:
        sizes = [width] + [hidden] * (num_layers - 1) + [out]
        parts: list[nn.Module] = []
        for i in range(num_layers):
            parts += [Linear(sizes[i], sizes[i + 1])] + ([nn.ReLU(inplace=True)] if i < num_layers - 1 else [])
        super().__init__(*parts)

    @property
    def last(self) -> Linear:
        """The layer that gives the result."""
        return cast(Linear, self[-1])
