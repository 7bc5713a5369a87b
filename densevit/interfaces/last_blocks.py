"""The contract between heads that run a backbone's last blocks, or take its tokens, and backbones with such blocks.

In EoMT (Kerssies et al. 2025), queries are tokens of the last blocks of a plain vision transformer. Such a head sets
`last_blocks`, the number of blocks, and its `forward` gets a `LastBlocks` instead of feature maps; such a backbone is a
`TokenBackbone`. The blocks remain modules of the backbone. With 0 blocks the head takes all tokens of the features, as
in PMT (Cavagnero et al. 2026), and the backbone computes what it computes without the head.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class LastBlocks:
    """The last blocks of a backbone, and the tokens that enter the first of them.

    tokens: (B, P + H*W, C): P tokens that are not cells, such as a class token, then the cells of the grid, row by row.
    grid: (H, W). blocks: functions block(x, bias) -> x of tokens (B, A + P + H*W, C), where A >= 0 tokens of the head
    come first; bias: added to the attention scores of all heads, broadcast to (B, 1, N, N), or None. norm: the
    backbone's final norm, a function of tokens. features: the normalised tokens of each feature of the backbone, (B,
    P + H*W, C), with 0 blocks only.
    """

    tokens: Tensor
    grid: tuple[int, int]
    blocks: Sequence[Callable[[Tensor, Tensor | None], Tensor]]
    norm: Callable[[Tensor], Tensor]
    features: Sequence[Tensor] = ()

    def single_image(self, i: int) -> "LastBlocks":
        """The same blocks with the tokens of one image of the batch."""
        return replace(self, tokens=self.tokens[i : i + 1], features=[x[i : i + 1] for x in self.features])


class BackboneOutput(NamedTuple):
    """Features and last blocks for the heads of a model.

    features: the feature maps, as from `Backbone.forward`; empty if not requested. last_blocks: the blocks by their
    numbers in `counts`.
    """

    features: list[Tensor]
    last_blocks: Mapping[int | None, LastBlocks]


@runtime_checkable
class TokenBackbone(Protocol):
    """A backbone whose last blocks a head can run.

    max_last_blocks: the number of last blocks that accept a head's tokens, which windowed attention does not.
    """

    max_last_blocks: int

    def encode(self, images: Tensor, counts: Collection[int], features: bool) -> BackboneOutput:
        """images: (B, 3, H, W). counts: numbers of last blocks that heads run, each from 0 to `max_last_blocks`.
        features: whether heads need feature maps; if not, the last min(counts) blocks are not computed.
        """
        ...
