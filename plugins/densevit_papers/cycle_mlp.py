"""CycleMLP (Chen et al. 2021): linear layers that read each channel at a neighbouring cell, in a pyramid of stages."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densevit.errors import WeightsError
from densevit.interfaces import (
    Backbone,
    Change,
    CheckpointLayout,
    Licences,
    Line,
    Publishing,
    SpecialTensors,
    StateDict,
)
from densevit.layers.checkpointing import run
from densevit.layers.drop_path import DropPath
from densevit.layers.initial_weights import truncated_normal
from densevit.layers.mlp import FeedForward
from densevit.layouts import count
from densevit_papers.parameters import stage_depths


class Variant(NamedTuple):
    """The sizes of a model of the paper."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    expansions: tuple[int, ...]


_BASE, _LARGE = (64, 128, 320, 512), (96, 192, 384, 768)
VARIANTS = {
    "nano": Variant((32, 64, 128, 256), (1, 1, 3, 1), (4, 4, 4, 4)),
    "b1": Variant(_BASE, (2, 2, 4, 2), (4, 4, 4, 4)),
    "b2": Variant(_BASE, (2, 3, 10, 3), (4, 4, 4, 4)),
    "b3": Variant(_BASE, (3, 4, 18, 3), (8, 8, 4, 4)),
    "b4": Variant(_BASE, (3, 8, 27, 3), (8, 8, 4, 4)),
    "b5": Variant(_LARGE, (3, 4, 24, 3), (4, 4, 4, 4)),
}


class CycleMlp(Backbone):
    """CycleMLP (Chen et al. 2021, section 3): features of strides 4, 8, 16 and 32.

    Any input size: an image is padded with zeros at the right and the bottom to a multiple of 4, and each map is
    ceil(size / stride). Padding of a larger batch changes all features, because the weights of the three branches of a
    block depend on the mean over the map.

    variant: "b1" to "b5" of the paper's table 1; "nano" (32 to 256 channels, 6 blocks) is for CPUs.
    drop_path: stochastic depth of the last block, linear from 0 at the first.
    gradient_checkpointing: activation checkpointing per block in training.
    in_channels: the number of channels of images.
    """

    def __init__(
        self,
        variant: Literal["nano", "b1", "b2", "b3", "b4", "b5"] = "b1",
        drop_path: float = 0.1,
        gradient_checkpointing: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        widths, counts, expansions = VARIANTS[variant]
        self.channels, self.strides = widths, (4, 8, 16, 32)
        self.gradient_checkpointing = gradient_checkpointing
        self.patches, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, (width, expansion) in enumerate(zip(widths, expansions, strict=True)):
            # The patches overlap: 7 pixels of stride 4, then 3 cells of stride 2.
            first = nn.Conv2d(in_channels, width, 7, stride=4, padding=2)
            self.patches.append(first if i == 0 else nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
            before = sum(counts[:i])
            rates = [drop_path * (before + j) / (sum(counts) - 1) for j in range(counts[i])]
            self.stages.append(nn.Sequential(*(Block(width, expansion, rate) for rate in rates)))
        self.feature_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.apply(truncated_normal)

    def forward(self, images: Tensor) -> list[Tensor]:
        H, W = images.shape[-2:]
        x = F.pad(images, (0, -W % 4, 0, -H % 4))
        features = []
        for patches, stage, norm in zip(self.patches, self.stages, self.feature_norms, strict=True):
            x = patches(x).permute(0, 2, 3, 1)  # (B, h, w, C)
            for block in stage.children():
                x = run(block, x, checkpointed=self.gradient_checkpointing and self.training)
            features.append(norm(x).permute(0, 3, 1, 2))
            x = x.permute(0, 3, 1, 2)
        return features

    def parameter_depths(self) -> list[list[nn.Parameter]]:
        """Groups: the first patches, and each block, with the patches before and the norm after it."""
        stages = zip(self.patches, self.stages, self.feature_norms, strict=True)
        return stage_depths(
            (list(patches.parameters()), stage.children(), list(norm.parameters())) for patches, stage, norm in stages
        )


class Block(nn.Module):
    """Three parallel branches of Cycle FC, then an MLP, each after a norm and with a residual sum (figure 2b)."""

    def __init__(self, width: int, expansion: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.branches = Branches(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, expansion * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.branches(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Branches(nn.Module):
    """Cycle FC along rows, along columns and at each cell (pseudo-kernels 1 x 3, 3 x 1, 1 x 1), summed with weights.

    The weights of the branches, per image and channel, are a softmax over the outputs of an MLP, whose input is the
    mean over the map of the sum of the branches (in the authors' code; not in the paper).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(width, width), nn.Linear(width, width)
        self.cells = nn.Linear(width, width, bias=False)
        self.reweight = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, 3 * width))
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        rows, columns, cells = self.rows(cycle(x, dim=2)), self.columns(cycle(x, dim=1)), self.cells(x)
        mean = (rows + columns + cells).mean(dim=(1, 2))  # (B, C)
        weights = self.reweight(mean).unflatten(1, (-1, 3)).softmax(dim=2)  # (B, C, 3)
        a, b, c = weights[:, None, None].unbind(-1)  # (B, 1, 1, C) each
        return self.output(rows * a + columns * b + cells * c)


def cycle(x: Tensor, dim: Literal[1, 2]) -> Tensor:
    """Reads channel c at the cell (c + 1) % 3 - 1 further along `dim`; cells beyond the border are zeros.

    With a linear layer after it, this is Cycle FC (equation 4) of pseudo-kernel 1 x 3 (`dim` 2) or 3 x 1 (`dim` 1). The
    authors' code uses a deformable convolution with these offsets, which are integers, so shifted maps give the same
    result.

    x: (B, H, W, C). Returns (B, H, W, C).
    """
    padded = F.pad(x, (0, 0, 1, 1) if dim == 2 else (0, 0, 0, 0, 1, 1))
    before, after = padded.narrow(dim, 0, x.shape[dim]), padded.narrow(dim, 2, x.shape[dim])
    offset = (torch.arange(x.shape[-1], device=x.device) + 1) % 3 - 1  # (C,): 0, 1, -1, 0, 1, -1, ...
    return torch.where(offset == 0, x, torch.where(offset == 1, after, before))


def _describe(tensors: StateDict) -> dict[str, Any]:
    """The config section, from tensors with densevit's keys."""
    widths = tuple(len(tensors[f"patches.{i}.weight"]) for i in range(4))
    blocks = tuple(count(tensors, rf"stages\.{i}\.(\d+)\.norm1\.weight") for i in range(4))
    hidden = [len(tensors[f"stages.{i}.0.mlp.expand.weight"]) for i in range(4)]
    expansions = tuple(n // width for n, width in zip(hidden, widths, strict=True))
    sizes = Variant(widths, blocks, expansions)
    variant = next((name for name, published in VARIANTS.items() if published == sizes), None)
    if variant is None:
        names = ", ".join(f"{name} {tuple(sizes)}" for name, sizes in VARIANTS.items())
        raise WeightsError(
            f"A CycleMLP of {widths} channels, {blocks} blocks and expansions {expansions} is not a known variant "
            f"(channels, blocks, expansions): {names}."
        )
    return {"backbone": {"name": "cycle_mlp", "variant": variant}}


def _lines() -> tuple[Line, ...]:
    """The authors' code numbers stages and the patches between them together."""
    names = {
        "norm1": "norm1",
        "attn.mlp_c": "branches.cells",
        "attn.reweight.fc1": "branches.reweight.0",
        "attn.reweight.fc2": "branches.reweight.2",
        "attn.proj": "branches.output",
        "norm2": "norm2",
        "mlp.fc1": "mlp.expand",
        "mlp.fc2": "mlp.contract",
    }
    return (
        Line("patch_embed.proj.*", "patches.0.*"),
        *(
            line
            for i in range(4)
            for line in (
                *(
                    Line(f"network.{2 * i}.{{b}}.{name}.*", f"stages.{i}.{{b}}.{part}.*")
                    for name, part in names.items()
                ),
                *_directed(f"network.{2 * i}.{{b}}.attn.sfc_h", f"stages.{i}.{{b}}.branches.rows"),
                *_directed(f"network.{2 * i}.{{b}}.attn.sfc_w", f"stages.{i}.{{b}}.branches.columns"),
                *([Line(f"network.{2 * i - 1}.proj.*", f"patches.{i}.*")] if i else []),
            )
        ),
        Line("norm.*", "feature_norms.3.*"),
    )


def _directed(source: str, target: str) -> tuple[Line, Line]:
    """Maps the keys of a Cycle FC, whose kernel is one cell."""
    kernel = Change(lambda weight: weight[:, :, 0, 0], lambda weight: weight[:, :, None, None])
    return Line(f"{source}.weight", f"{target}.weight", kernel), Line(f"{source}.bias", f"{target}.bias")


CYCLE_MLP = CheckpointLayout(
    name="cycle-mlp",
    signature_keys=(
        "patch_embed.proj.weight",
        "network.0.{b}.attn.sfc_h.weight",
        "network.6.{b}.attn.reweight.fc1.weight",
    ),
    lines=_lines(),
    describe=_describe,
    special=SpecialTensors(
        no_effect={
            "head.*": "the classification head",
            "network.{s}.{b}.attn.sfc_h.offset": "the fixed offsets of Cycle FC",
            "network.{s}.{b}.attn.sfc_w.offset": "the fixed offsets of Cycle FC",
        },
        missing={
            f"feature_norms.{i}.*": "a norm of the stage's feature map, which a classifier lacks" for i in range(3)
        },
    ),
    publishing=Publishing(
        licences=Licences(
            "MIT",
            "MIT",
            data="ImageNet",
            teacher="none",
            source="https://github.com/ShoufaChen/CycleMLP/blob/4e062a0/README.md",
            date="2026-11-29",
        ),
    ),
    container="model",  # of which the published scores are, as in DeiT's code
)
