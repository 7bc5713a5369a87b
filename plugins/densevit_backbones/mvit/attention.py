"""Attention over a pooled map, with decomposed relative positions (Li et al. 2022, section 4.1)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import attention
from densevit.layers.table_cache import cached_table
from densevit.layers.windows import window_partition, window_reverse

Size = tuple[int, int]


def pooled(size: Size, stride: int) -> Size:
    """The size of a map after a 3x3 window of this stride with padding 1: ceil(size / stride)."""
    return -(-size[0] // stride), -(-size[1] // stride)


class PoolingAttention(nn.Module):
    """Attention whose queries, keys and values are pooled per head first (Fan et al. 2021, section 3.1).

    query_stride: None: queries are not pooled; 1: a convolution that keeps the map's size.
    map_size: size of the input map for an image of the training size, which determines the number of rows in the
        tables of relative positions. None: no relative positions, as in MViTv1.
    residual: adds pooled queries to the output of attention (MViTv2's residual pooling): "all", or "map" without class
        tokens. None: no residual.
    window: side of the windows of the input map in which the pooled maps are attended to; None: global attention. The
        last windows are padded with zeros after the pooling, which take part in the attention.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        num_heads: int,
        query_stride: int | None,
        key_stride: int,
        map_size: Size | None,
        residual: Literal["all", "map"] | None,
        window: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.residual, self.attention = num_heads, residual, attention
        strides = (query_stride or 1, key_stride)
        self.windows = None if window is None else (window // strides[0], window // strides[1])  # of queries, of keys
        self.query, self.key, self.value = (nn.Linear(channels, width) for _ in range(3))
        head = width // num_heads
        self.pool_query = None if query_stride is None else HeadPooling(head, query_stride)
        self.pool_key, self.pool_value = HeadPooling(head, key_stride), HeadPooling(head, key_stride)
        self.relative_positions = None
        if map_size is not None:
            self.relative_positions = RelativePositions(
                pooled(map_size, query_stride or 1), pooled(map_size, key_stride), head
            )
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """x: (B, T + H*W, C), T class tokens before the map. Returns (B, T + h*w, width) and the queries' (h, w)."""
        query, key, value = (
            y.unflatten(-1, (self.num_heads, -1)) for y in (self.query(x), self.key(x), self.value(x))
        )  # (B, T + H*W, heads, D)
        query_size = size
        if self.pool_query is not None:
            query, query_size = self.pool_query(query, size)
        key, key_size = self.pool_key(key, size)
        value, _ = self.pool_value(value, size)
        mix = self._mix if self.windows is None else self._mix_in_windows
        mixed = mix(query, key, value, query_size, key_size).transpose(1, 2)  # (B, T + h*w, heads, D)
        if self.residual == "all":
            mixed = query + mixed
        elif self.residual == "map":
            tokens = query.shape[1] - query_size[0] * query_size[1]
            mixed = torch.cat([mixed[:, :tokens], query[:, tokens:] + mixed[:, tokens:]], 1)
        return self.output(mixed.flatten(2)), query_size

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, query_size: Size, key_size: Size) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (B, heads, ., D)
        if self.relative_positions is None:
            return self.attention(q, k, v)
        tokens = query.shape[1] - query_size[0] * query_size[1]
        cells = query[:, tokens:].unflatten(1, query_size)
        rows, columns = self.relative_positions(cells, key_size)
        # One wider product avoids additions to all scores, their sums in the backward pass, and on a GPU storing the
        # scores. In fp32 on a CPU the wider product costs more than it saves.
        if query.is_cuda or query.dtype is not torch.float32:
            return self.attention(*widen(query, key, rows, columns, tokens), v, scale=1.0)
        return self.attention(q, k, v, bias(rows, columns, tokens))

    def _mix_in_windows(self, query: Tensor, key: Tensor, value: Tensor, query_size: Size, key_size: Size) -> Tensor:
        assert self.windows is not None
        M, N = self.windows
        (h, w), heads = query_size, query.shape[2]
        q = _partition(query, query_size, M)  # (B * windows, M*M, heads, D)
        k, v = (_partition(x, key_size, N) for x in (key, value))
        mixed = self._mix(q, k, v, (M, M), (N, N)).transpose(1, 2).flatten(2)
        cells = window_reverse(mixed, M, h + -h % M, w + -w % M)[:, :h, :w]  # (B, h, w, heads * D)
        return cells.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)


def _partition(x: Tensor, size: Size, window: int) -> Tensor:
    """(B, H*W, heads, D) -> (B * windows, window^2, heads, D), padded with zeros to whole windows."""
    (H, W), heads = size, x.shape[2]
    cells = F.pad(x.flatten(2).unflatten(1, size), (0, 0, 0, -W % window, 0, -H % window))
    return window_partition(cells, window).unflatten(-1, (heads, -1))


class HeadPooling(nn.Module):
    """A depthwise 3x3 convolution and a layer norm, both shared by all heads. Class tokens are only normalised."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels, 1, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """(B, T + H*W, heads, D) -> (B, T + h*w, heads, D) and (h, w)."""
        heads, tokens = x.shape[2], x.shape[1] - size[0] * size[1]
        # The concatenated channels of the heads, the output of the linear layer, are one map in channels-last memory.
        y = x[:, tokens:].flatten(2).unflatten(1, size).permute(0, 3, 1, 2)  # (B, heads * D, H, W)
        y = _depthwise(y, self.weight.repeat(heads, 1, 1, 1), self.stride)
        y = y.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (heads, -1))
        if tokens:
            y = torch.cat([x[:, :tokens], y], 1)
        return self.norm(y).to(y.dtype), pooled(size, self.stride)


def _depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    if x.dtype is torch.bfloat16 and x.device.type == "cpu" and stride > 1:
        # oneDNN's gradient of a strided depthwise convolution is ten times slower in bf16 than in fp32.
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(x.float(), weight.float(), stride=stride, padding=1, groups=x.shape[1]).to(x.dtype)
    return F.conv2d(x, weight, stride=stride, padding=1, groups=x.shape[1])


class RelativePositions(nn.Module):
    """Decomposed relative positions: learned vectors for the row and column offset of a query and a key, with the score
    q_i . (R^h + R^w).

    The score is not divided by the square root of the heads' width, as in the published weights but unlike in the
    paper. query_size, key_size: sizes of the maps at the training size. A table has a vector for each offset of the
    larger map; for other maps it is interpolated linearly, rows and columns separately.
    """

    def __init__(self, query_size: Size, key_size: Size, channels: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * max(query_size[0], key_size[0]) - 1, channels))
        self.columns = nn.Parameter(torch.zeros(2 * max(query_size[1], key_size[1]) - 1, channels))
        nn.init.trunc_normal_(self.rows, std=0.02)
        nn.init.trunc_normal_(self.columns, std=0.02)

    def forward(self, query: Tensor, key_size: Size) -> tuple[Tensor, Tensor]:
        """query: (B, h, w, heads, D), a map. Returns the scores of queries with each row and each column of keys:

        (B, heads, h, w, h') and (B, heads, h, w, w').
        """
        _, h, w, heads, _ = query.shape
        row_vectors = _vectors(self.rows, h, key_size[0]).to(query.dtype)  # (h, h', D)
        column_vectors = _vectors(self.columns, w, key_size[1]).to(query.dtype)  # (w, w', D)
        rows = query.flatten(2, 3) @ row_vectors.transpose(1, 2)  # (B, h, w * heads, h')
        columns = query.transpose(1, 2).flatten(2, 3) @ column_vectors.transpose(1, 2)  # (B, w, h * heads, w')
        rows, columns = rows.unflatten(2, (w, heads)), columns.unflatten(2, (h, heads))
        return rows.permute(0, 3, 1, 2, 4), columns.permute(0, 3, 2, 1, 4)

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes a table for maps of another size; see `densevit.weights.state_dict_loading.fit`."""
        return _resized(tensor, len(self.rows if name == "rows" else self.columns)), "interpolated"


def bias(rows: Tensor, columns: Tensor, tokens: int) -> Tensor:
    """The bias of attention scores, (B, heads, T + h*w, T + h'*w'), from the output of `RelativePositions`; 0 for
    tokens."""
    summed = (rows[..., None] + columns[..., None, :]).flatten(4).flatten(2, 3)
    return F.pad(summed, (tokens, 0, tokens, 0)) if tokens else summed


def widen(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product includes the relative positions, so that no bias is added to the scores.

    query: (B, T + h*w, heads, D). key: (B, T + h'*w', heads, D). rows, columns: the output of `RelativePositions`.
    Returns (B, heads, T + h*w, D') and (B, heads, T + h'*w', D'), for `attention` with a scale of 1. A query is divided
    by the square root of D and concatenated with its scores with each row and column of keys; a key is concatenated
    with a one-hot encoding of its row and column.
    """
    B, heads, h, w, _ = rows.shape
    key_size, D = (rows.shape[-1], columns.shape[-1]), query.shape[-1]
    fill = -(D + sum(key_size)) % 8  # fused kernels need aligned rows
    query = query * (1 / math.sqrt(D))
    parts = [query[:, tokens:].unflatten(1, (h, w)).permute(0, 3, 1, 2, 4), rows, columns]
    if fill:
        parts.append(query.new_zeros(1).expand(B, heads, h, w, fill))
    wide_query = torch.cat(parts, -1).flatten(2, 3)
    if tokens:
        wide_query = torch.cat([F.pad(query[:, :tokens].transpose(1, 2), (0, sum(key_size) + fill)), wide_query], 2)
    places = cached_table(_places, *key_size, tokens, fill, query.device).to(query.dtype)
    return wide_query, torch.cat([key.transpose(1, 2), places.expand(B, heads, -1, -1)], -1)


def _vectors(table: Tensor, queries: int, keys: int) -> Tensor:
    """The vectors of all pairs of query rows and key rows, (queries, keys, D), from a table of all offsets."""
    table = _resized(table, 2 * max(queries, keys) - 1)
    return F.embedding(cached_table(_offsets, queries, keys, table.device), table)


def _resized(table: Tensor, length: int) -> Tensor:
    """(N, D) -> (length, D)."""
    return table if len(table) == length else F.interpolate(table.T[None], size=length, mode="linear")[0].T


def _offsets(queries: int, keys: int, device: torch.device) -> Tensor:
    """Row of the table for each pair, (queries, keys): the offset on the finer grid, rounded down, from the most
    negative offset.

    Computed with integers, because rounding a floating-point quotient down could give the previous row.
    """
    larger = max(queries, keys)
    query = torch.arange(queries, device=device) * larger // queries
    key = torch.arange(keys - 1, -1, -1, device=device) * larger // keys
    return query[:, None] + key


def _places(height: int, width: int, tokens: int, fill: int, device: torch.device) -> Tensor:
    """One-hot rows and columns of cells, (tokens + height * width, height + width + fill); zeros for tokens."""
    rows = torch.eye(height, device=device)[:, None].expand(-1, width, -1)
    columns = torch.eye(width, device=device).expand(height, -1, -1)
    return F.pad(torch.cat([rows, columns], -1).flatten(0, 1), (0, fill, tokens, 0))
