"""NAF (Chambon et al. 2025, "NAF: Zero-Shot Feature Upsampling via Neighborhood Attention Filtering")."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.interfaces import Neck
from densevit_necks.bilinear import upsampling_factor
from densevit_necks.neighbourhood_attention import neighbourhood_attention

_HEADS, _KERNEL = 4, 9  # of the attention; 9 x 9 cells
_PIXELS = 4  # of the encoded image, per cell of the output and dimension, at most


class NAF(Neck):
    """Upsamples the last feature, guided by the image, with weights that fit any backbone; other features are ignored.

    An encoder of the image gives queries at the stride of the output; the keys are their means over the cells of the
    feature. Each output is an average of the feature's 9 x 9 cells around it (section 3): values are neither projected
    nor mixed. Padding has no effect: convolutions, norms, positions and windows end with each image's last cells.

    The names of tensors are the authors': `heads.NAME.neck.weights` takes their naf_release.pth (Apache-2.0), and runs
    of the method `naf`. For a neck that stays as loaded: `heads.NAME.freeze: [neck.*]`.

    Most of its memory is the encoder's, whose convolutions run at the images' size.

    stride: the stride of the output in pixels, a divisor of the last feature's. None: the smallest of at least 4. Above
    4, images are resized to 4 pixels per cell first, as by the authors; theirs become square.
    width: channels of queries and keys, a multiple of 32; 256 in the published weights.
    """

    needs_images = True

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], stride: int | None = None, width: int = 256
    ) -> None:
        super().__init__(channels[-1:], strides[-1:])
        if width < 32 or width % 32:
            raise ValueError(f"width is {width}; expected a multiple of 32.")
        if channels[-1] % _HEADS:
            raise ValueError(f"The last feature has {channels[-1]} channels; naf expects a multiple of {_HEADS}.")
        self.factor = upsampling_factor(strides[-1], stride)
        self.feature_stride, self.strides = strides[-1], (strides[-1] // self.factor,)
        self.image_encoder = ImageEncoder(width)

    def forward(  # type: ignore[override]  # needs_images
        self, features: list[Tensor], padding_mask: Tensor, images: Tensor
    ) -> list[Tensor]:
        """Uses the last feature, (B, C, h, w). Returns one map (B, C, h * factor, w * factor).

        images: (B, 3, H, W), normalised by ImageNet's mean and standard deviation. Raises ValueError for other than 3
        channels.
        """
        if images.shape[1] != 3:
            raise ValueError(f"naf takes images of 3 channels, not of {images.shape[1]}. Fix: another neck.")
        x, stride = features[-1], self.feature_stride
        (h, w), (H, W) = x.shape[-2:], images.shape[-2:]
        images = F.pad(images, (0, w * stride - W, 0, h * stride - H))
        sides = torch.stack([(~padding_mask).any(3 - axis).sum(1) for axis in (1, 2)], 1)  # (B, 2)
        cells = ((sides + stride - 1) // stride).clamp(min=1)
        return [self.upsample(images, x, self.factor, cells)]

    def upsample(self, images: Tensor, features: Tensor, factor: int, cells: Tensor | None = None) -> Tensor:
        """Upsamples features (B, C, h, w) by `factor`, guided by images (B, 3, h * n, w * n).

        cells: (B, 2), the rows and columns of cells inside of each image; None: all. n is a multiple of `factor`, or
        more than 4 times it. Returns (B, C, h * factor, w * factor).
        """
        h, w = features.shape[-2:]
        pixels = images.shape[-1] // w
        if pixels > _PIXELS * factor:
            pixels = _PIXELS * factor
            images = F.interpolate(images, size=(h * pixels, w * pixels), mode="bilinear", align_corners=False)
        queries = self.image_encoder(images, pixels // factor, None if cells is None else cells * pixels)
        return neighbourhood_attention(queries, F.avg_pool2d(queries, factor), features, _HEADS, _KERNEL, cells)


class ImageEncoder(nn.Module):
    """Two encoders, of 1x1 and of 3x3 convolutions, side by side, and rotary positions (section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder, self.sem_encoder = Encoder(width // 2, 1), Encoder(width // 2, 3)
        self.rope = RotaryPositions(width // _HEADS)

    def forward(self, images: Tensor, pool: int, sizes: Tensor | None) -> Tensor:
        """(B, 3, H, W) -> (B, width, H / pool, W / pool). sizes: (B, 2), heights and widths; None: H and W."""
        x = torch.cat([F.avg_pool2d(encoder(images, sizes), pool) for encoder in (self.encoder, self.sem_encoder)], 1)
        return cast(Tensor, self.rope(x, None if sizes is None else sizes // pool))


class Encoder(nn.ModuleList):
    """A convolution and two blocks."""

    def __init__(self, width: int, kernel_size: int) -> None:
        blocks = (Block(width, kernel_size) for _ in range(2))
        super().__init__([_convolution(3, width, kernel_size), *blocks])

    def forward(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        first, *blocks = self
        x = convolved(x, cast(nn.Conv2d, first), sizes)
        for block in blocks:
            x = block(x, sizes)
        return x


class Block(nn.Module):
    """Group norm, SiLU and a convolution, twice, without a shortcut."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), _convolution(width, width, kernel_size)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), _convolution(width, width, kernel_size)

    def forward(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        for norm, convolution in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            x = normed(x, norm, sizes)
            x = convolved(F.silu(x, inplace=not torch.is_grad_enabled()), convolution, sizes)
        return x


class RotaryPositions(nn.Module):
    """Rotates pairs of channels by row and column from -1 to 1, as in DINOv3 (`densevit.layers.rotary`).

    In training, positions are multiplied by a factor of 1/2 to 2, drawn for each batch.

    channels: the number of channels of an attention head.
    """

    periods: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("periods", 100.0 ** (torch.arange(channels // 4) / (channels // 4)))

    def forward(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """(B, E, H, W) -> the same shape. sizes: (B, 2), heights and widths of images; None: H and W."""
        H, W = x.shape[-2:]
        scale = 2 * math.pi * (x.new_empty(1).uniform_(-1, 1).exp2() if self.training else 1.0)
        sides = (H, W) if sizes is None else sizes.T[..., None]
        rows, columns = (
            scale * (2 * (torch.arange(n, device=x.device) + 0.5)[None] / side - 1)[:, None] / self.periods[:, None]
            for n, side in zip((H, W), sides, strict=True)
        )  # (B or 1, channels / 4, n)
        angles = torch.cat([rows[..., None].expand(-1, -1, -1, W), columns[:, :, None].expand(-1, -1, H, -1)], 1)
        cosines, sines = (table[:, None].to(x.dtype) for table in (angles.cos(), angles.sin()))
        first, second = x.unflatten(1, (_HEADS, 2, -1)).unbind(2)  # (B, heads, channels / 2, H, W)
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], 2).flatten(1, 2)


def convolved(x: Tensor, convolution: nn.Conv2d, sizes: Tensor | None) -> Tensor:
    """A convolution that reflects each image at its borders, also inside the canvas. sizes: (B, 2), or None."""
    if sizes is None or convolution.kernel_size == (1, 1):
        return cast(Tensor, convolution(x))
    for axis in (2, 3):
        n, last = x.shape[axis], sizes[:, axis - 2, None] - 1
        index = torch.arange(-1, n + 1, device=x.device).abs()[None]
        index = torch.where(index <= last, index, 2 * last - index).clamp(min=0)  # (B, n + 2)
        shape = [*x.shape]
        shape[axis] = n + 2
        x = x.gather(axis, (index[:, None, :, None] if axis == 2 else index[:, None, None]).expand(shape))
    return F.conv2d(x, convolution.weight, convolution.bias)


def normed(x: Tensor, norm: nn.GroupNorm, sizes: Tensor | None) -> Tensor:
    """A group norm over the pixels of each image, without padding. sizes: (B, 2), or None."""
    if sizes is None:
        return cast(Tensor, norm(x))
    rows, columns = (torch.arange(n, device=x.device) < sizes[:, i, None] for i, n in enumerate(x.shape[-2:]))
    inside = (rows[:, :, None] & columns[:, None])[:, None, None].to(x.dtype)  # (B, 1, 1, H, W)
    groups = x.unflatten(1, (norm.num_groups, -1))
    count = inside.sum((3, 4), keepdim=True) * groups.shape[2]
    centred = groups - (groups * inside).sum((2, 3, 4), keepdim=True) / count
    variance = (centred.square() * inside).sum((2, 3, 4), keepdim=True) / count
    x = (centred * (variance + norm.eps).rsqrt()).flatten(1, 2)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def _convolution(inputs: int, outputs: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, padding_mode="reflect")
