"""Layers of MaX-DeepLab (Wang et al. 2021) and kMaX-DeepLab (Yu et al. 2022): axial attention, residual blocks of a
pixel path, and the heads of masks, classes and semantic segmentation. Batch norm follows each convolution.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.drop_path import DropPath
from densevit.layers.norms import SyncBatchNorm2d
from densevit.layers.pooling import masked_mean
from densevit.layers.positions import mask_on_grid
from densevit.layers.precision import HALF, at_least_fp32, autocast_off
from densevit.layers.upsampling import upsampled
from densevit.losses.distributed import process_count
from densevit_papers.max_deeplab_masks import MaskOutputs

EXPANSION = 4  # channels of a block's output, relative to its base
MAX_SPAN = 255  # distances of relative positions are below; larger distances share the largest distance's embedding
NO_OBJECT_PRIOR = 0.9  # initial probability of "no object"
_ATROUS_RATES = (6, 12, 18)
_LOW_LEVEL_CHANNELS = (64, 32)  # of the semantic decoder, coarse to fine

Activation = Callable[[], nn.Module]


class BatchNorm(SyncBatchNorm2d):
    """The papers' batch norm (eps 1e-3, momentum 0.01), over (B, C, ...).

    A single value per channel, such as the pooled feature of one image, is normalised by the running statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype in HALF:  # of a model in half precision, also where x is in fp32
            x = x.to(self.weight.dtype)
        if self.training and x.numel() == x.shape[1] and process_count() == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and activation, of a map (B, C, H, W), or of memory (B, C, Q) with `memory`.

    norm_weight: initial weight of the norm; 0 at the end of a residual branch. bias: whether the convolution has a
    bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        activation: Activation | None = None,
        memory: bool = False,
        depthwise: bool = False,
        dilation: int = 1,
        bias: bool = False,
        norm_weight: float = 1.0,
    ) -> None:
        kind = nn.Conv1d if memory else nn.Conv2d
        padding, groups = dilation * (kernel // 2), inputs if depthwise else 1
        conv = kind(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias)
        fan_in = conv.weight[0].numel()
        nn.init.trunc_normal_(conv.weight, std=math.sqrt(2 / fan_in), a=-2.0, b=2.0)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        norm = BatchNorm(outputs)
        nn.init.constant_(norm.weight, norm_weight)
        super().__init__(conv, norm, *(() if activation is None else (activation(),)))


class NormedAttention(nn.Module):
    """Attention with batch norm of the scores, in place of a scale, and of the retrieved values; then activation."""

    def __init__(self, value_width: int, num_heads: int, activation: Activation) -> None:
        super().__init__()
        self.norm_scores = BatchNorm(num_heads)
        self.norm_values = BatchNorm(value_width)
        self.activation = activation()

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """query: (B, heads, D, N). key: (B, heads, D, S). value: (B, heads, V, S). bias: (B, 1, 1, S), the result of
        `padding_bias`.

        Returns (B, heads * V, N).
        """
        with autocast_off(query.device):  # products without a scale may be above fp16's largest number
            scores = self.norm_scores(at_least_fp32(query).transpose(2, 3) @ at_least_fp32(key))  # (B, heads, N, S)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        retrieved = (value @ weights.to(value.dtype).transpose(2, 3)).flatten(1, 2)
        return self.activation(self.norm_values(retrieved))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, C, N) -> (B, heads, C / heads, N)."""
    return x.unflatten(1, (num_heads, -1))


def padding_bias(padding: Tensor) -> Tensor:
    """0 for keys of an image and -inf for padding; 0 in rows of padding only. padding: (B, S). Returns (B, 1, 1, S)."""
    masked = padding & ~padding.all(1, keepdim=True)
    bias = torch.zeros(masked.shape, device=masked.device).masked_fill(masked, float("-inf"))
    return bias[:, None, None]


class AxialAttention(nn.Module):
    """Position-sensitive attention along one axis, with relative positions of queries, keys and values (Axial-DeepLab,
    Wang et al. 2020, section 3.2).
    """

    def __init__(self, inputs: int, key_width: int, value_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.widths = num_heads, (key_width, key_width, value_width)
        self.qkv = ConvNorm(inputs, sum(self.widths), memory=True)
        nn.init.trunc_normal_(self.qkv[0].weight, std=inputs**-0.5)  # type: ignore[arg-type]
        depths = [width // num_heads for width in self.widths]
        self.positions = nn.ParameterList(torch.empty(2 * MAX_SPAN - 1, depth) for depth in depths)
        for table in self.positions:
            nn.init.trunc_normal_(table)
        self.norm_scores = BatchNorm(3 * num_heads)
        self.norm_values = BatchNorm(2 * value_width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, C, N). bias: (B, 1, 1, N). Returns (B, value_width, N)."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).split(self.widths, dim=1))
        steps = torch.arange(x.shape[2], device=x.device)
        distance = (steps - steps[:, None]).clamp(1 - MAX_SPAN, MAX_SPAN - 1) + MAX_SPAN - 1  # (N, N), key - query
        query_positions, key_positions, value_positions = (
            at_least_fp32(table)[distance] for table in self.positions
        )  # (N, N, D)
        with autocast_off(x.device):  # products without a scale may be above fp16's largest number
            q, k = at_least_fp32(q), at_least_fp32(k)
            scores = [
                q.transpose(2, 3) @ k,
                torch.einsum("bhdn,nmd->bhnm", q, query_positions),
                torch.einsum("bhdm,nmd->bhnm", k, key_positions),
            ]
            total = self.norm_scores(torch.cat(scores, dim=1)).unflatten(1, (3, -1)).sum(1)
        weights = (total + bias).softmax(-1).to(v.dtype)  # (B, heads, N, N)
        retrieved = [v @ weights.transpose(2, 3), torch.einsum("bhnm,nmd->bhdn", weights, value_positions.to(v.dtype))]
        both = self.norm_values(torch.cat(retrieved, dim=1).flatten(1, 2))
        return both.unflatten(1, (2, -1)).sum(1)


class AxialAttention2d(nn.Module):
    """Attention along columns, then along rows. key_width: `value_width` is twice as large."""

    def __init__(self, inputs: int, key_width: int, num_heads: int) -> None:
        super().__init__()
        self.columns = AxialAttention(inputs, key_width, 2 * key_width, num_heads)
        self.rows = AxialAttention(2 * key_width, key_width, 2 * key_width, num_heads)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """x: (B, C, H, W). padding: (B, H, W). Returns (B, 2 * key_width, H, W)."""
        B, _, H, W = x.shape
        y = x.permute(0, 3, 1, 2).flatten(0, 1)  # (B * W, C, H)
        y = self.columns(y, padding_bias(padding.transpose(1, 2).flatten(0, 1))).unflatten(0, (B, W))  # (B, W, C, H)
        y = y.permute(0, 3, 2, 1).flatten(0, 1)  # (B * H, C, W)
        return self.rows(y, padding_bias(padding.flatten(0, 1))).unflatten(0, (B, H)).transpose(1, 2)


class PixelBlock(nn.Module):
    """A residual block: 1x1 convolution, 3x3 convolution or axial attention, 1x1 convolution.

    The input is activated first, also for the shortcut; the output is not activated. base: width of the 3x3 convolution
    and of keys; the result has 4 * base channels.
    """

    def __init__(
        self, inputs: int, base: int, axial: bool, num_heads: int, activation: Activation, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        outputs = EXPANSION * base
        self.activation = activation()
        self.reduce = ConvNorm(inputs, 2 * base if axial else base, activation=activation)
        self.attention = AxialAttention2d(2 * base, base, num_heads) if axial else None
        self.convolution = None if axial else ConvNorm(base, base, 3, activation)
        self.expand = ConvNorm(2 * base if axial else base, outputs, norm_weight=0.0)
        self.shortcut = nn.Identity() if inputs == outputs else ConvNorm(inputs, outputs)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """x: (B, C, H, W). padding: (B, H, W)."""
        x = self.activation(x)
        y = self.reduce(x)
        if self.attention is not None:
            y = self.activation(self.attention(y, padding))
        else:
            assert self.convolution is not None
            y = self.convolution(y)
        return self.drop_path(self.expand(y)) + self.shortcut(x)


class ResizedFuse(nn.Module):
    """Sum of a coarse map, upsampled, and a fine map; each is activated and projected if its channels differ.

    align_corners: the argument of `upsampled`.
    """

    def __init__(
        self, coarse: int, fine: int, outputs: int, activation: Activation, align_corners: bool = False
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        parts = ((activation(), ConvNorm(inputs, outputs)) if inputs != outputs else () for inputs in (coarse, fine))
        self.coarse, self.fine = (nn.Sequential(*part) for part in parts)

    def forward(self, coarse: Tensor, fine: Tensor, ratio: int) -> Tensor:
        """coarse: (B, C, h, w). fine: (B, C', H, W). ratio: the coarse stride divided by the fine one."""
        x = self.fine(fine)
        y = upsampled(self.coarse(coarse), ratio, (x.shape[2], x.shape[3]), self.align_corners)
        return y.to(x.dtype) + x


class Level(NamedTuple):
    """A level of the pixel path. feature: the index of its feature map. ratio: the stride of the level before, divided
    by its own. base: the base channels of its blocks. axial: whether they have axial attention.
    """

    feature: int
    stride: int
    ratio: int
    base: int
    axial: bool


def levels_of(strides: Sequence[int], width: int) -> list[Level]:
    """The levels, coarse to fine: the deepest feature of each stride; at most the four coarsest, whose strides are
    multiples of one another.

    width: base of the finest level; the base doubles from level to level and is 8 * width at the coarsest: 512, 256,
    128, 64 for features of four strides and a width of 64. The coarsest level and levels of at least 4 * width are
    axial.
    """
    deepest = {stride: index for index, stride in enumerate(strides)}
    used = [max(deepest)]
    for stride in sorted(deepest, reverse=True)[1:]:
        if len(used) < 4 and used[-1] % stride == 0:
            used.append(stride)
    bases = [8 * width, *(width * 2**i for i in reversed(range(len(used) - 1)))]
    return [
        Level(deepest[stride], stride, before // stride, base, base >= 4 * width)
        for before, stride, base in zip([used[0], *used], used, bases, strict=False)
    ]


class MaskPredictor(nn.Module):
    """Classes of queries, and masks: products of normalised per-pixel features and of a kernel of each query.

    A batch norm of the products, initially with a weight of 0.1, stands for a temperature. embedding: channels of
    features and kernels.
    """

    prior: Tensor

    def __init__(self, pixels: int, width: int, embedding: int, num_classes: int, activation: Activation) -> None:
        super().__init__()
        self.pixel_head = nn.Sequential(
            ConvNorm(pixels, pixels, 5, activation, depthwise=True),
            ConvNorm(pixels, width, 1, activation),
            ConvNorm(width, embedding, bias=True),
        )
        self.kernel_head = ConvNorm(width, embedding, memory=True)
        self.label_head = nn.Conv1d(width, num_classes + 1, 1)
        self.norm_masks = BatchNorm(1)
        nn.init.trunc_normal_(self.pixel_head[2][0].weight, std=0.01)  # type: ignore[index]
        nn.init.trunc_normal_(self.label_head.weight, std=0.01)
        nn.init.zeros_(self.label_head.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.norm_masks.weight, 0.1)
        prior = torch.zeros(num_classes + 1)
        prior[-1] = math.log(num_classes * NO_OBJECT_PRIOR / (1 - NO_OBJECT_PRIOR))
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, class_memory: Tensor, mask_memory: Tensor, pixels: Tensor) -> MaskOutputs:
        """class_memory, mask_memory: memory (B, C, Q). pixels: (B, C', H, W). Masks and features are in fp32."""
        features, kernels = self.pixel_head(pixels), self.kernel_head(mask_memory)
        with autocast_off(features.device):
            features = F.normalize(at_least_fp32(features), dim=1)
            masks = at_least_fp32(kernels).transpose(1, 2) @ features.flatten(2)  # (B, Q, H * W)
            masks = self.norm_masks(masks[:, None].to(self.norm_masks.weight.dtype))[:, 0]
            masks = at_least_fp32(masks).unflatten(2, features.shape[2:])
        logits = self.label_head(class_memory).transpose(1, 2)
        return MaskOutputs(logits + self.prior.to(logits.dtype), masks, features)


class SemanticDecoder(nn.Module):
    """Class logits of the auxiliary semantic loss: atrous spatial pyramid pooling of the coarsest feature, and fusion
    with up to two of the finest features (Panoptic-DeepLab, Cheng et al. 2020, section 3.1).

    In training only. A separate decoder keeps the gradient of this loss away from the mask features. align_corners: the
    argument of `upsampled`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        levels: Sequence[Level],
        width: int,
        num_classes: int,
        activation: Activation,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.coarsest, self.fine = levels[0], list(levels[1:][-2:])
        inputs = channels[self.coarsest.feature]
        self.branches = nn.ModuleList([ConvNorm(inputs, width, 1, activation)])
        self.branches.extend(ConvNorm(inputs, width, 3, activation, dilation=rate) for rate in _ATROUS_RATES)
        self.pooled = ConvNorm(inputs, width, 1, activation)
        self.project = nn.Sequential(ConvNorm(5 * width, width, 1, activation), nn.Dropout(0.1))
        self.laterals, self.fusions = nn.ModuleList(), nn.ModuleList()
        for level, lateral in zip(self.fine, _LOW_LEVEL_CHANNELS[-len(self.fine) :], strict=False):
            self.laterals.append(ConvNorm(channels[level.feature], lateral, 1, activation))
            self.fusions.append(_separable(width + lateral, width, activation))
        self.classifier = nn.Sequential(_separable(width, width, activation), nn.Conv2d(width, num_classes, 1))
        nn.init.trunc_normal_(self.classifier[1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.classifier[1].bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], padding_mask: Tensor) -> Tensor:
        """Returns (B, K, h, w), on the grid of the finest level."""
        x, stride = features[self.coarsest.feature], self.coarsest.stride
        pooled = self.pooled(masked_mean(x, padding_mask)[:, :, None, None]).expand(-1, -1, *x.shape[2:])
        x = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        for level, lateral, fusion in zip(self.fine, self.laterals, self.fusions, strict=True):
            fine = lateral(features[level.feature])
            x = upsampled(x, stride // level.stride, (fine.shape[2], fine.shape[3]), self.align_corners)
            x, stride = fusion(torch.cat([x.to(fine.dtype), fine], dim=1)), level.stride
        return self.classifier(x)


def _separable(inputs: int, outputs: int, activation: Activation) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(inputs, inputs, 5, activation, depthwise=True), ConvNorm(inputs, outputs, 1, activation)
    )


def padding_of(padding_mask: Tensor, x: Tensor) -> Tensor:
    """The padding mask on the grid of a map (B, C, h, w): (B, h, w)."""
    return mask_on_grid(padding_mask, (x.shape[2], x.shape[3]))
