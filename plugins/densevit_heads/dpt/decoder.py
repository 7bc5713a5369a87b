"""DPT's decoder (Ranftl et al. 2021, sections 3.1 and 3.2): reassembles maps at strides 4 to 32 and fuses them upwards.

The readout operation (class token) is part of the backbone. Upsampling by 2 uses `align_corners=True`, as in the
authors' code. If the image size is not a multiple of the coarsest stride, upsampled maps are cropped at the right and
bottom to the finer map, which keeps cells aligned with pixels (transformers resizes the finer map instead). Depth
Anything resizes upsampled maps to the finer map; see `Upsampling`.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit_heads.parts import class_map_layers

Norm = Literal["none", "sync", "batch", "group"]
Upsampling = Literal["double", "exact"]
"""How a fused map is upsampled: by 2, then cropped to the finer map (DPT); or to the finer map's size (Depth Anything).
The two differ if a map has an odd size. Both use `align_corners=True`."""
Size = tuple[int, int]

_LEVELS = (4, 8, 16, 32)  # nominal strides of the fusion levels


class DptDecoder(nn.Module):
    """Fuses one to four maps into one map of half the stride of the finest level.

    Each map is assigned to a level of stride 4, 8, 16 or 32 (see `assign_levels`) and resampled to it. Levels without a
    map only upsample.

    width: channels of the fusion. reassembled: channels of each resampled map (see `Reassemble`).
    norm: the norm of the residual units. upsampling: "double" or "exact" (`Upsampling`).
    Attributes: `stride` of the output, a Fraction; `fusions`, the number of fusion levels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        reassembled: Sequence[int] | None,
        norm: Norm,
        upsampling: Upsampling = "double",
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        unit, levels = assign_levels(strides)
        if reassembled is None:
            shares = {4: 4, 8: 2, 16: 1, 32: 1}  # DPT-Large and DPT-Hybrid
            reassembled = [-(-c // shares[level]) for c, level in zip(channels, levels, strict=True)]
        self.levels, self.unit = levels, unit
        self.reassemble = nn.ModuleList()
        self.project = nn.ModuleList()
        for c, inner, stride, level in zip(channels, reassembled, strides, levels, strict=True):
            factor = Fraction(stride) / (unit * level)
            if strides.count(stride) == 1 and factor == 1:  # already at its level
                self.reassemble.append(nn.Identity())
                inner = c
            else:
                self.reassemble.append(Reassemble(c, inner, factor))
            self.project.append(nn.Conv2d(inner, width, 3, padding=1, bias=False))
        fused = [level for level in _LEVELS if level <= levels[-1]]
        self.fuse = nn.ModuleDict({str(level): Fusion(width, level in levels[:-1], norm) for level in reversed(fused)})
        self.fusions, self.stride = len(fused), unit * fused[0] / 2

    def forward(self, features: Sequence[Tensor], size: Size) -> list[Tensor]:
        """Returns the output of each fusion, coarsest first: (B, width, H_i, W_i), twice the size of its level, or with
        upsampling "exact" the size of the next level's map.

        size: (H, W) of the padded images in pixels.
        """
        maps: dict[int, Tensor] = {}
        exact = self.upsampling == "exact"
        for x, reassemble, project, level in zip(features, self.reassemble, self.project, self.levels, strict=True):
            x = reassemble(x)
            maps[level] = project(x if exact else crop(x, self._size(size, level)))
        fused: list[Tensor] = []
        for key, fusion in self.fuse.items():
            level = int(key)
            coarser = maps.pop(level) if not fused else fused[-1] if exact else crop(fused[-1], self._size(size, level))
            finer = maps.get(level // 2) if exact else None
            fused.append(fusion(coarser, maps.get(level), None if finer is None else _size_of(finer)))
        return fused

    def _size(self, size: Size, level: int) -> Size:
        stride = self.unit * level
        height, width = (-(-n * stride.denominator // stride.numerator) for n in size)
        return height, width


class Reassemble(nn.Module):
    """A 1x1 convolution, then a transposed convolution (factor > 1) or 3x3 convolutions of stride 2 (factor < 1)."""

    def __init__(self, channels: int, width: int, factor: Fraction) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, 1)
        self.resample: nn.Module = nn.Identity()
        if factor > 1:
            self.resample = nn.ConvTranspose2d(width, width, int(factor), stride=int(factor))
        elif factor < 1:
            halvings = int(1 / factor).bit_length() - 1
            self.resample = nn.Sequential(*(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(halvings)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, f * H, f * W), rounded up."""
        return self.resample(self.projection(x))


class Fusion(nn.Module):
    """Feature fusion block: adds a map to the coarser result and upsamples by 2 (figure 1, right).

    merged: whether there is a map to add; it passes a separate residual unit. The final 1x1 convolution commutes with
    bilinear upsampling and therefore precedes it, on a quarter of the cells.
    """

    def __init__(self, width: int, merged: bool, norm: Norm) -> None:
        super().__init__()
        self.residual1 = ResidualUnit(width, norm) if merged else None
        self.residual2 = ResidualUnit(width, norm)
        self.projection = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, merged: Tensor | None, size: Size | None = None) -> Tensor:
        """x, merged: (B, C, H, W). Returns (B, C, 2H, 2W), or (B, C, *size)."""
        if self.residual1 is not None and merged is not None:
            x = x + self.residual1(merged)
        x = self.projection(self.residual2(x))
        return double(x) if size is None else enlarge(x, size)


class ResidualUnit(nn.Module):
    """Pre-activation residual unit: ReLU, 3x3 convolution and norm, twice (RefineNet, Lin et al. 2017)."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm1 = normalisation(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm2 = normalisation(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        branch = self.norm1(self.conv1(F.relu(x)))
        return x + self.norm2(self.conv2(F.relu(branch)))


def normalisation(norm: Norm, width: int) -> nn.Module:
    """Returns a norm layer. "sync": batch norm over all processes; "batch": per process; "group": group norm."""
    if norm == "none":
        return nn.Identity()
    return class_map_layers.normalisation(norm, width)


def assign_levels(strides: Sequence[int]) -> tuple[Fraction, tuple[int, ...]]:
    """Assigns maps to levels of stride 4, 8, 16 or 32. Returns the unit of these strides in pixels, and the levels.

    The unit is 1 for strides that are powers of two; a stride of 14 pixels counts as 16 units of 14/16 pixels. Four
    maps take the four levels in order; fewer maps take the levels with the least resampling, in a tie the coarser
    levels. Raises ValueError for more than four maps, and for strides whose ratios are not powers of two.
    """
    listed = ", ".join(map(str, strides))
    if not 1 <= len(strides) <= len(_LEVELS):
        raise ValueError(
            f"The backbone has {len(strides)} feature maps of strides {listed}; dpt fuses 1 to {len(_LEVELS)}. "
            "Fix: select them with features, for example [1, 2, 3, 4]."
        )
    nearest = [2 ** round(math.log2(stride)) for stride in strides]
    units = {Fraction(stride, power) for stride, power in zip(strides, nearest, strict=True)}
    if len(units) > 1:
        raise ValueError(
            f"The features have strides {listed}; dpt expects powers of two times one number, such as 4, 8, 16, 32 or "
            "14, 14, 14, 14. Fix: select them with features."
        )

    def resampling(levels: tuple[int, ...]) -> float:
        return sum(abs(math.log2(power / level)) for power, level in zip(nearest, levels, strict=True))

    possible = list(itertools.combinations(_LEVELS, len(strides)))
    return units.pop(), min(reversed(possible), key=resampling)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), bilinear with align_corners=True."""
    height, width = _size_of(x)
    return enlarge(x, (2 * height, 2 * width))


def enlarge(x: Tensor, size: Size) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear with align_corners=True."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _size_of(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def crop(x: Tensor, size: Size) -> Tensor:
    """Crops a map to its top-left part, at most (B, C, *size)."""
    return x[..., : size[0], : size[1]]


def upsample(x: Tensor, stride: Fraction, size: Size) -> Tensor:
    """Upsamples a map of the given stride bilinearly to pixels and crops it to (B, C, *size).

    Raises ValueError if the map is smaller than that.
    """
    if stride != 1:
        full = [-(-n * stride.numerator // stride.denominator) for n in x.shape[-2:]]
        x = F.interpolate(x, size=full, mode="bilinear", align_corners=False)
    if x.shape[-2] < size[0] or x.shape[-1] < size[1]:
        raise ValueError(f"The maps cover {tuple(x.shape[-2:])} pixels; {tuple(size)} were requested.")
    return crop(x, size)


def feature_indices(features: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """Converts option `features`, numbers from 1 among `count` maps, to indices; None selects all maps."""
    if features is None:
        return tuple(range(count))
    ascending = all(a < b for a, b in itertools.pairwise(features))
    if not features or not ascending or features[0] < 1 or features[-1] > count:
        raise ValueError(
            f"features is {list(features)}; expected ascending numbers from 1 to {count}, where 1 is the first map."
        )
    return tuple(number - 1 for number in features)
