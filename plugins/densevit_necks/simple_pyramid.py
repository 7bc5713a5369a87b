"""Simple feature pyramid (ViTDet, Li et al. 2022, section 3): all scales from the last map of a plain backbone."""

from collections.abc import Sequence

from torch import Tensor, nn

from densevit.interfaces import Neck
from densevit.layers.norms import LayerNorm2d


class SimplePyramid(Neck):
    """Creates all levels from the last feature by deconvolution and max pooling; other features are ignored.

    Each upsampling step is a deconvolution of stride 2 that halves the channels, with a layer norm and GELU between two
    of them; each downsampling step is 2x2 max pooling. Then follow a 1x1 and a 3x3 convolution, both without bias and
    with a layer norm.

    width: channels of each level.
    pyramid_strides: ascending strides of the levels, each the stride of the last feature multiplied or divided by a
        power of two. None: four levels from the finest such stride of at least 4: the paper's 4, 8, 16 and 32 for a ViT
        of patch size 16 or 8; 7, 14, 28 and 56 for patch size 14.

    Size of a level: from a map of stride s with ceil(H / s) rows, a coarser level of stride t has ceil(H / t) rows and
    a finer one ceil(H / s) * s / t. The latter equals ceil(H / t) if H is a multiple of s, as `DenseModel` ensures by
    padding; otherwise it is up to s / t - 1 more, and these cells lie outside the image.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int = 256,
        pyramid_strides: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(channels, strides)
        if width < 1:
            raise ValueError(f"width is {width}; expected at least 1 channel.")
        if pyramid_strides is None:
            pyramid_strides = _possible(strides[-1])
        check_strides(pyramid_strides)
        self.levels = nn.ModuleList(_level(channels[-1], strides[-1], stride, width) for stride in pyramid_strides)
        self.channels, self.strides = (width,) * len(pyramid_strides), tuple(pyramid_strides)

    def forward(self, features: list[Tensor], padding_mask: Tensor) -> list[Tensor]:
        """Uses the last feature, (B, C, h, w). Returns (B, width, h * s / t, w * s / t), rounded up, per stride t."""
        return [level(features[-1]) for level in self.levels]


def _level(channels: int, stride: int, target: int, width: int) -> nn.Sequential:
    """Layers from the map of stride `stride` to the level of stride `target`."""
    ups, downs = steps(channels, stride, target)
    parts = deconvolutions(channels, ups)
    channels >>= ups
    parts += [nn.MaxPool2d(2, stride=2, ceil_mode=True) for _ in range(downs)]
    parts += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width, eps=1e-6)]
    parts += [nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width, eps=1e-6)]
    return nn.Sequential(*parts)


def check_strides(pyramid_strides: Sequence[int]) -> None:
    """Raises ValueError unless the strides are positive and ascending."""
    if not pyramid_strides or pyramid_strides[0] < 1 or list(pyramid_strides) != sorted(set(pyramid_strides)):
        raise ValueError(f"pyramid_strides is {_listed(pyramid_strides)}; expected ascending strides in pixels.")


def steps(channels: int, stride: int, target: int) -> tuple[int, int]:
    """The numbers of steps that double and that halve the sides of a map of stride `stride`, to stride `target`.

    channels: the number of channels, which each upsampling step halves. Raises ValueError if there are no such steps.
    """
    ups, downs = _doublings(target, stride), _doublings(stride, target)
    if ups is None and downs is None:
        raise ValueError(
            f"pyramid_strides has {target}, but a feature of the backbone has stride {stride}; expected that stride "
            f"times or divided by a power of 2. Fix: use for example {_listed(_possible(stride))}."
        )
    if channels >> (ups or 0) == 0:
        raise ValueError(
            f"pyramid_strides has {target}, {ups} upsampling steps from a feature of stride {stride}, but each step "
            f"halves the {channels} channels. Fix: remove that level."
        )
    return ups or 0, downs or 0


def deconvolutions(channels: int, count: int) -> list[nn.Module]:
    """Upsampling steps, each of which halves the channels, with a layer norm and GELU between two of them."""
    parts: list[nn.Module] = []
    for i in range(count):
        parts += [LayerNorm2d(channels, eps=1e-6), nn.GELU()] if i > 0 else []
        parts.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    return parts


def _doublings(smaller: int, larger: int) -> int | None:
    """Number of doublings from `smaller` to `larger`; None if there is no such number."""
    count = 0
    while smaller << count < larger:
        count += 1
    return count if smaller << count == larger else None


def _possible(stride: int) -> tuple[int, ...]:
    """Four valid strides, from the finest that is at least 4."""
    while stride % 2 == 0 and stride >= 8:
        stride //= 2
    while stride < 4:
        stride *= 2
    return tuple(stride * 2**i for i in range(4))


def _listed(numbers: Sequence[int]) -> str:
    return f"({', '.join(str(number) for number in numbers)})"
