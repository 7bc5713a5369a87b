"""Shifted-window attention of Swin Transformers: scaled dot products in version 1, scaled cosines in version 2."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.attention import attention
from densevit.layers.precision import autocast_off
from densevit.layers.windows import (
    ShiftedWindows,
    ShiftRule,
    log_spaced_offsets,
    relative_position_index,
    resize_bias_table,
    shifted_windows,
)


class _InWindows(nn.Module):
    """Base of both versions: the windows, and a bias for each offset of two tokens in a window.

    The padding of the last windows is zero before the projections, so its projection is their bias. Maps are therefore
    projected without padding, then padded with the bias, shifted and partitioned. rule: which axes are shifted, see
    `shift_steps`.
    """

    relative_position_index: Tensor

    def __init__(self, num_heads: int, window: int, shifted: bool, rule: ShiftRule) -> None:
        super().__init__()
        self.num_heads, self.window, self.shift, self.rule = num_heads, window, window // 2 if shifted else 0, rule
        self.attention, self.shifted_windows = attention, shifted_windows
        self.register_buffer("relative_position_index", relative_position_index(window).flatten(), persistent=False)

    def _windows(self, x: Tensor) -> ShiftedWindows:
        return self.shifted_windows(x, self.window, self.shift, self.num_heads, self.rule)

    def _biased_attention(
        self, query: Tensor, key: Tensor, value: Tensor, table: Tensor, mask: Tensor | None
    ) -> Tensor:
        """query, key, value: the three parts of the output of `ShiftedWindows.partition`.

        table: ((2M - 1)^2, heads) for windows of M x M. mask: (windows, N, N), added to the scores; N = M^2.
        """
        N = self.window**2
        bias = table.to(value.dtype).T.index_select(1, self.relative_position_index).view(-1, N, N)  # (heads, N, N)
        if mask is not None:
            bias = (bias + mask[:, None]).flatten(0, 1)  # (windows * heads, N, N)
        return self.attention(query, key, value, bias)


class WindowAttention(_InWindows):
    """Attention inside windows with a learned bias for each offset (Liu et al. 2021, equation 4)."""

    def __init__(self, channels: int, num_heads: int, window: int, shifted: bool, rule: ShiftRule) -> None:
        super().__init__(num_heads, window, shifted, rule)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        qkv = self.qkv(x)
        windows = self._windows(qkv)
        query, key, value = windows.partition(qkv, self.qkv.bias).unbind(0)
        mixed = self._biased_attention(query, key, value, self.relative_position_bias_table, windows.mask)
        return self.output(windows.reverse(mixed))

    def carried_over(self, name: str, tensor: Tensor) -> tuple[Tensor, str] | None:
        """Resizes a bias table that was trained with another window; see `densevit.weights.state_dict_loading.fit`."""
        resizable = name.endswith("bias_table") and math.isqrt(len(tensor)) ** 2 == len(tensor)
        return (resize_bias_table(tensor, self.window), "interpolated") if resizable else None


class CosineWindowAttention(_InWindows):
    """Scaled cosine attention of query and key, with a bias that an MLP computes from log-spaced offsets.

    Liu et al. 2022, sections 3.3 and 3.4. `pretrained_window` is the window that the MLP was trained with.
    """

    offsets: Tensor

    def __init__(
        self, channels: int, num_heads: int, window: int, shifted: bool, rule: ShiftRule, pretrained_window: int
    ) -> None:
        super().__init__(num_heads, window, shifted, rule)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(channels))  # keys have no bias
        self.value_bias = nn.Parameter(torch.zeros(channels))
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.position_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))
        self.output = nn.Linear(channels, channels)
        self.register_buffer("offsets", log_spaced_offsets(window, pretrained_window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        outside = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        qkv = F.linear(x, self.qkv.weight, outside)
        windows = self._windows(qkv)
        query, key, value = windows.partition(qkv, outside).unbind(0)
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        scale = scale * math.sqrt(query.shape[-1])  # `attention` divides by it
        if windows.mask is not None:
            scale = scale.expand(windows.mask.shape[0], -1, -1, -1).flatten(0, 1)  # (windows * heads, 1, 1)
        query = (_direction(query) * scale).to(value.dtype)
        key = _direction(key).to(value.dtype)
        with autocast_off(x.device):  # bf16 would round the biases, up to 16, of different offsets to equal values
            table = 16 * self.position_mlp(self.offsets).sigmoid()
        return self.output(windows.reverse(self._biased_attention(query, key, value, table, windows.mask)))


def _direction(x: Tensor) -> Tensor:
    """x normalised to length 1, in float32 at least: a sum of squares overflows in fp16."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
