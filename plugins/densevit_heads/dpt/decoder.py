"""DPT's decoder (Ranftl et al. 2021, sections 3.1 and 3.2): maps are reassembled at strides 4 to 32 and fused upwards.

The class token's readout is the backbone's. Upsampling by 2 aligns corners, as in the authors' code; where a picture is
no multiple of the coarsest stride, an upsampled map is cut at the right and the bottom to the finer map's grid, so that
cells stay at their pixels (transformers stretches the finer map in its place).
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densevit.layers.norms import SyncBatchNorm2d

Norm = Literal["none", "sync", "batch", "group"]
Size = tuple[int, int]

_PLACES = (4, 8, 16, 32)  # the strides that are fused


class Decoder(nn.Module):
    """One to four maps in, one map of half the finest place's stride out.

    Each map has a place among strides 4, 8, 16 and 32 (see `places_of`) and is resampled to it. Places that are finer
    than all maps, or between them, are passed with upsampling alone.

    width: channels of the fusion. reassembled: channels of each map that is resampled (see `Reassemble`).
    norm: of the residual units. Attributes: `stride` of what comes out, a Fraction; `fusions`, how many there are.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        width: int,
        reassembled: Sequence[int] | None,
        norm: Norm,
    ) -> None:
        super().__init__()
        unit, places = places_of(strides)
        if reassembled is None:
            shares = {4: 4, 8: 2, 16: 1, 32: 1}  # DPT-Large and DPT-Hybrid
            reassembled = [-(-c // shares[place]) for c, place in zip(channels, places, strict=True)]
        self.places, self.unit = places, unit
        self.reassemble = nn.ModuleList()
        self.project = nn.ModuleList()
        for c, between, stride, place in zip(channels, reassembled, strides, places, strict=True):
            factor = Fraction(stride) / (unit * place)
            if strides.count(stride) == 1 and factor == 1:  # a pyramid's
                self.reassemble.append(nn.Identity())
                between = c
            else:
                self.reassemble.append(Reassemble(c, between, factor))
            self.project.append(nn.Conv2d(between, width, 3, padding=1, bias=False))
        fused = [place for place in _PLACES if place <= places[-1]]
        self.fuse = nn.ModuleDict({str(place): Fusion(width, place in places[:-1], norm) for place in reversed(fused)})
        self.fusions, self.stride = len(fused), unit * fused[0] / 2

    def forward(self, features: Sequence[Tensor], size: Size) -> list[Tensor]:
        """What each fusion gives, the coarsest first: (B, width, H_i, W_i), of twice its place's cells.

        size: of the pictures in pixels, padding included.
        """
        maps: dict[int, Tensor] = {}
        for x, reassemble, project, place in zip(features, self.reassemble, self.project, self.places, strict=True):
            maps[place] = project(cut(reassemble(x), self._grid(size, place)))
        fused: list[Tensor] = []
        for key, fusion in self.fuse.items():
            place = int(key)
            before = cut(fused[-1], self._grid(size, place)) if fused else maps.pop(place)
            fused.append(fusion(before, maps.get(place)))
        return fused

    def _grid(self, size: Size, place: int) -> Size:
        stride = self.unit * place
        height, width = (-(-n * stride.denominator // stride.numerator) for n in size)
        return height, width


class Reassemble(nn.Module):
    """A 1x1 convolution, and resampling by `factor`: a transposed convolution upwards, 3x3 ones of stride 2 downwards.

    A factor of 1 keeps the size.
    """

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
    """Adds a map to what was fused before, and doubles the size (figure 1, right).

    `merged`: whether there is such a map, which goes through a residual unit of its own first. The closing 1x1
    convolution commutes with bilinear upsampling and comes before it, on a fourth of the cells.
    """

    def __init__(self, width: int, merged: bool, norm: Norm) -> None:
        super().__init__()
        self.residual1 = ResidualUnit(width, norm) if merged else None
        self.residual2 = ResidualUnit(width, norm)
        self.projection = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, merged: Tensor | None) -> Tensor:
        """x, merged: (B, C, H, W). Returns (B, C, 2H, 2W)."""
        if self.residual1 is not None and merged is not None:
            x = x + self.residual1(merged)
        return double(self.projection(self.residual2(x)))


class ResidualUnit(nn.Module):
    """ReLU, 3x3 convolution and norm, twice, beside the identity (RefineNet, Lin et al. 2017, with pre-activation)."""

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
    """ "sync": batch norm over all processes; "batch": over each process's own pictures; "group"; "none"."""
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return nn.GroupNorm(math.gcd(32, width), width)
    return SyncBatchNorm2d(width) if norm == "sync" else nn.BatchNorm2d(width)


def places_of(strides: Sequence[int]) -> tuple[Fraction, tuple[int, ...]]:
    """The place of each map among strides 4, 8, 16 and 32, and the unit, in pixels, that these are counted in.

    The unit is 1 where strides are powers of two; maps of patches of 14 pixels are taken for stride 16, in units of
    14/16. Four maps take the four places in order; fewer those that need the least resampling, the coarser if in doubt.
    Raises ValueError for more than four maps, and for strides whose ratios are no powers of two.
    """
    listed = ", ".join(map(str, strides))
    if not 1 <= len(strides) <= len(_PLACES):
        raise ValueError(
            f"dpt fuses up to {len(_PLACES)} maps, and there are {len(strides)}, of strides {listed}: "
            "choose from them with features, for example [1, 2, 3, 4]."
        )
    nearest = [2 ** round(math.log2(stride)) for stride in strides]
    units = {Fraction(stride, power) for stride, power in zip(strides, nearest, strict=True)}
    if len(units) > 1:
        raise ValueError(
            f"dpt fuses maps whose strides are powers of two times one number, such as 4, 8, 16, 32 or 14, 14, 14, 14; "
            f"these have {listed}: choose from them with features."
        )

    def resampling(places: tuple[int, ...]) -> float:
        return sum(abs(math.log2(power / place)) for power, place in zip(nearest, places, strict=True))

    possible = list(itertools.combinations(_PLACES, len(strides)))
    return units.pop(), min(reversed(possible), key=resampling)


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), bilinear, the corners' centres at the corners' centres."""
    height, width = x.shape[-2:]
    return F.interpolate(x, size=(2 * height, 2 * width), mode="bilinear", align_corners=True)


def cut(x: Tensor, size: Size) -> Tensor:
    """The top left part of a map, (B, C, *size) at most."""
    return x[..., : size[0], : size[1]]


def on_pixels(x: Tensor, stride: Fraction, size: Size) -> Tensor:
    """A map of cells of `stride` pixels on the pixels themselves, (B, C, *size): bilinear, cut to the size.

    Raises ValueError where the map does not cover it.
    """
    if stride != 1:
        covered = [-(-n * stride.numerator // stride.denominator) for n in x.shape[-2:]]
        x = F.interpolate(x, size=covered, mode="bilinear", align_corners=False)
    if x.shape[-2] < size[0] or x.shape[-1] < size[1]:
        raise ValueError(f"The maps cover {tuple(x.shape[-2:])} pixels; they have no {tuple(size)} to give.")
    return cut(x, size)


def chosen(features: tuple[int, ...] | None, count: int) -> tuple[int, ...]:
    """The indices of the maps that option `features`, numbers from 1, chooses among `count`."""
    if features is None:
        return tuple(range(count))
    rising = all(a < b for a, b in itertools.pairwise(features))
    if not features or not rising or features[0] < 1 or features[-1] > count:
        raise ValueError(f"features is {list(features)}; it must be rising numbers of maps, from 1 to {count}.")
    return tuple(number - 1 for number in features)
