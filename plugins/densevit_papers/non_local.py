"""Non-local block (Wang et al. 2018, "Non-local Neural Networks"): attention to all cells of a map."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import attention
from densevit.layers.precision import at_least_fp32, autocast_off

Pairwise = Literal["embedded_gaussian", "gaussian", "dot_product"]

# The residual blocks that a non-local block follows, counted from 0, in stages 3 and 4 (res3 and res4), by depth.
_POSITIONS: dict[int, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    1: {26: ((), (2,)), 38: ((), (3,)), 50: ((), (4,)), 101: ((), (21,))},
    5: {50: ((1, 3), (1, 3, 5)), 101: ((1, 3), (6, 13, 20))},
    10: {50: ((0, 1, 2, 3), (0, 1, 2, 3, 4, 5))},
}


@dataclass(frozen=True)
class NonLocal:
    """The option `non_local` of `attention_resnet`; the defaults are the paper's model of 5 blocks.

    blocks: 1, before the last residual block of res4; 5, after every second block of res3 and res4 (with depth 101,
        after every seventh of res4); 10, after every block of res3 and res4 (section 5.1).
    pairwise: the function f of two cells (section 3.2).
    subsampling: keys and values come from a max pooling over 2 x 2 cells.
    """

    blocks: Literal[1, 5, 10] = 5
    pairwise: Pairwise = "embedded_gaussian"
    subsampling: bool = True

    def positions(self, depth: int) -> tuple[tuple[int, int], ...]:
        """The positions of non-local blocks: pairs of a stage, from 1, and the residual block before it, from 0.

        Raises ValueError for a depth that has too few blocks, or for which the paper has no such model.
        """
        by_depth = _POSITIONS[self.blocks]
        if depth not in by_depth:
            depths = " or ".join(map(str, by_depth))
            raise ValueError(f"non_local.blocks {self.blocks} needs depth {depths}, but depth is {depth}.")
        second, third = by_depth[depth]
        return (*((2, block) for block in second), *((3, block) for block in third))

    def block(self, channels: int) -> nn.Module:
        return NonLocalBlock(channels, self.pairwise, self.subsampling)


class NonLocalBlock(nn.Module):
    """x + BN(W_z y), y the mean of the embedded cells g(x_j), weighted by f(x_i, x_j) (equations 1 and 6).

    The embeddings have half of the channels. The scale of the batch norm is initially 0, so the block is an identity.
    The scores of "embedded_gaussian" are divided by the root of their channels as in the authors' code; equation 3 has
    no scale. Subsampling pools x, as in the authors' code; the paper pools the embeddings. Incomplete squares at the
    border are pooled too.
    """

    def __init__(self, channels: int, pairwise: Pairwise = "embedded_gaussian", subsampling: bool = True) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.pairwise, self.subsampling, self.attention = pairwise, subsampling, attention
        if pairwise != "gaussian":
            self.theta = nn.Conv2d(channels, inner, 1)
            self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.output = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.initialise()

    def initialise(self) -> None:
        for module in self.children():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # bias exists
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pooled = F.max_pool2d(x, 2, ceil_mode=True) if self.subsampling else x
        value = _cells(self.g(pooled))  # (B, S, C / 2)
        if self.pairwise == "gaussian":
            with autocast_off(x.device):  # products of C unscaled features overflow in fp16
                cells = at_least_fp32(_cells(x))
                y = self.attention(cells, at_least_fp32(_cells(pooled)), value.to(cells.dtype), scale=1.0).to(
                    value.dtype
                )
        elif self.pairwise == "embedded_gaussian":
            y = self.attention(_cells(self.theta(x)), _cells(self.phi(pooled)), value)
        else:
            scores = _cells(self.theta(x)) @ _cells(self.phi(pooled)).transpose(1, 2)  # (B, N, S)
            y = (scores / scores.shape[-1]) @ value
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, C / 2, H, W)
        return x + self.norm(self.output(y))


def _cells(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)
