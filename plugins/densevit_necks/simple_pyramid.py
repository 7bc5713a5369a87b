"""Simple feature pyramid (ViTDet, Li et al. 2022, section 3): every scale from a plain backbone's last map."""

from collections.abc import Sequence

from torch import Tensor, nn

from densevit.interfaces import Neck
from densevit.layers.norms import LayerNorm2d


class SimplePyramid(Neck):
    """Deconvolutions and max pooling make all levels from the last feature; the others are not looked at.

    Each step to twice the resolution is a deconvolution of stride 2 that halves the channels, with a layer norm and
    GELU between two of them; each step to half of it is a max pooling of 2x2. Then a 1x1 and a 3x3 convolution, both
    without bias and with a layer norm.

    width: channels of each level.
    pyramid_strides: strides of the levels, rising; each is the last feature's times a power of two, or over one. The
        paper's are 4, 8, 16 and 32 from a ViT of patch 16; one of patch 14 gives 7, 14, 28 and 56.

    The size of a level: from a map of ceil(H / s) rows, a coarser level of stride t has ceil(H / t), and a finer one
    has ceil(H / s) * s / t. That is ceil(H / t) where H is a multiple of s, as in a `DenseModel`, which pads
    images to such sizes; of another image it is up to s / t - 1 more, cells that lie past its border.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int = 256,
        pyramid_strides: tuple[int, ...] = (4, 8, 16, 32),
    ) -> None:
        super().__init__(channels, strides)
        if width < 1:
            raise ValueError(f"width is {width}; expected a number of channels, 1 or more.")
        if not pyramid_strides or pyramid_strides[0] < 1 or list(pyramid_strides) != sorted(set(pyramid_strides)):
            raise ValueError(
                f"pyramid_strides is {_listed(pyramid_strides)}; expected rising numbers of pixels, one a level."
            )
        self.levels = nn.ModuleList(_level(channels[-1], strides[-1], stride, width) for stride in pyramid_strides)
        self.channels, self.strides = (width,) * len(pyramid_strides), tuple(pyramid_strides)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The last of the features, (B, C, h, w) -> (B, width, h * s / t, w * s / t) for each stride t, rounded up."""
        return [level(features[-1]) for level in self.levels]


def _level(channels: int, given: int, wanted: int, width: int) -> nn.Sequential:
    """From the map of stride `given` to the level of stride `wanted`."""
    ups, downs = _doublings(wanted, given), _doublings(given, wanted)
    if ups is None and downs is None:
        raise ValueError(
            f"pyramid_strides has {wanted}, but the backbone's last feature has stride {given}, and it can only be "
            f"doubled and halved: {_listed(_possible(given))} would do."
        )
    if channels >> (ups or 0) == 0:
        raise ValueError(
            f"pyramid_strides has {wanted}, {ups} steps from the last feature's stride {given}, but each step "
            f"halves the {channels} channels. Leave that level out."
        )
    parts: list[nn.Module] = []
    for i in range(ups or 0):
        parts += [LayerNorm2d(channels, eps=1e-6), nn.GELU()] if i > 0 else []
        parts.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
        channels //= 2
    for _ in range(downs or 0):
        parts.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
    parts += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width, eps=1e-6)]
    parts += [nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width, eps=1e-6)]
    return nn.Sequential(*parts)


def _doublings(smaller: int, larger: int) -> int | None:
    """How often `smaller` is to be doubled to give `larger`; None where that never does."""
    count = 0
    while smaller << count < larger:
        count += 1
    return count if smaller << count == larger else None


def _possible(stride: int) -> tuple[int, ...]:
    """Four strides, the finest a quarter of this one where that is a whole number."""
    finest = next(stride // step for step in (4, 2, 1) if stride % step == 0)
    return tuple(finest * 2**i for i in range(4))


def _listed(numbers: Sequence[int]) -> str:
    return f"({', '.join(str(number) for number in numbers)})"
