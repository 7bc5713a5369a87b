"""Object queries (Carion et al. 2020, section 3.2): the inputs of a decoder, and the predictions of mask queries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from densevit.layers.precision import autocast_off
from densevit.layers.selection import SelectTop

COPIED = 0.25  # share of a query's difference from the mean that its copy has
NOISE = 0.1  # of copies, in standard deviations of the queries


class Queries(NamedTuple):
    """Queries whose positions stay the same (Carion et al. 2020, section 3.2).

    contents, positions: (B, Q, C). Positions are added to contents in each attention.
    """

    contents: Tensor
    positions: Tensor


class BoxQueries(NamedTuple):
    """Queries that are boxes (DAB-DETR, Liu et al. 2022). contents: (B, Q, C). boxes: (B, Q, 4) cxcywh in 0 ... 1."""

    contents: Tensor
    boxes: Tensor


class QueryTable(nn.Embedding):
    """A learned vector of each query: (G * Q, C), G groups one after another.

    Weights that were trained with another number of queries fit (`resized_queries`).
    """

    def __init__(self, num_queries: int, width: int, groups: int = 1) -> None:
        super().__init__(groups * num_queries, width)
        self.groups = groups

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """The table (G * q, C) for this number of queries; see `densevit.weights.state_dict_loading.fit`."""
        return resized_queries(tensor, self.num_embeddings // self.groups, self.groups)


def resized_queries(table: Tensor, num_queries: int, groups: int = 1, dim: int = 0) -> tuple[Tensor, str] | None:
    """A table for another number of queries, and a warning how it was resized; None if its size is no multiple of
    `groups`.

    Each group keeps its first queries. Further queries are copies of the group's, the last first, as the first ones of
    two-stage queries have the highest scores. A copy keeps a quarter of its difference from the group's mean: copies of
    other queries predict the same objects twice. Gaussian noise of a tenth of the standard deviation is added, from the
    seed (`torch.initial_seed`); the random state does not change.

    table: (G * Q, ...), or with this dimension at `dim`. num_queries: the new Q.
    """
    if table.shape[dim] % groups:
        return None
    rows = table.movedim(dim, 0).unflatten(0, (groups, -1)).float()  # (G, Q, ...)
    Q, how = rows.shape[1], f"Warning: {num_queries} queries for {rows.shape[1]}: the first {num_queries}"
    if num_queries > Q:
        mean, generator = rows.mean(1, keepdim=True), torch.Generator().manual_seed(torch.initial_seed())
        order = (-1 - torch.arange(num_queries - Q)) % Q
        noise = torch.randn(len(rows), len(order), *rows.shape[2:], generator=generator)
        copies = mean + COPIED * (rows[:, order] - mean) + NOISE * rows.std(1, correction=0, keepdim=True) * noise
        rows = torch.cat([rows, copies], dim=1)
        how = f"Warning: {num_queries} queries for {Q}: these stay, {num_queries - Q} are copies with noise"
    return rows[:, :num_queries].flatten(0, 1).movedim(0, dim).to(table.dtype), how


class TopCells(nn.Module):
    """Values at the cells with the highest scores."""

    def __init__(self) -> None:
        super().__init__()
        self.select_top = SelectTop()

    def forward(self, scores: Tensor, padding: Tensor, count: int, *values: Tensor) -> tuple[Tensor, ...]:
        """Selects the `count` cells with the highest scores, or all cells if there are fewer, from each of `values`.

        scores: (B, S). padding: (B, S) bool; padded cells rank below all others. values: tensors (B, S, C). Returns (B,
        count, C) of each, by descending score.
        """
        scores = scores.detach().masked_fill(padding, float("-inf"))
        top = self.select_top(scores, count)[..., None]
        return tuple(x.gather(1, top.expand(-1, -1, x.shape[-1])) for x in values)


class MaskQueries(NamedTuple):
    """Predictions from the L = 1 + layers states of the queries, the first before the first layer.

    logits: (L, B, Q, K+1), the last class is "no object". embeddings: (L, B, Q, C) fp32; see `mask_logits`.
    """

    logits: Tensor
    embeddings: Tensor


def mask_logits(embeddings: Tensor, pixels: Tensor) -> Tensor:
    """Products of mask embeddings (..., Q, C) and per-pixel embeddings (..., C, h, w), in fp32: (..., Q, h, w)
    (MaskFormer, Cheng et al. 2021, section 3.3)."""
    with autocast_off(pixels.device):
        return (embeddings.float() @ pixels.float().flatten(-2)).unflatten(-1, pixels.shape[-2:])
