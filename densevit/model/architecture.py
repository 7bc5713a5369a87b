"""What a model is built from: its plugins and their options, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from densevit.channels import Channels

HeadWeight = float | Literal["learned"]
PerChannel = tuple[float, ...]


@dataclass(frozen=True)
class LoraArchitecture:
    """Low-rank adapters in training, see `densevit.model.lora`. targets: name patterns of linear layers."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class BackboneArchitecture:
    """A backbone by its plugin name. mean, std: normalisation of each channel's values in 0 ... 1; None: the
    backbone's. freeze: the frozen parts, see `freeze_backbone`. lora: None: no adapters. channels: those of the images;
    None: RGB of 8 bits. adapted_stem: the parameters of first layers that were adapted to them, see `set_adapted_stem`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: PerChannel | None = None
    std: PerChannel | None = None
    freeze: bool | int | tuple[str, ...] = False
    lora: LoraArchitecture | None = None
    channels: Channels | None = None
    adapted_stem: tuple[str, ...] = ()


@dataclass(frozen=True)
class NeckArchitecture:
    """A neck by its plugin name."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadArchitecture:
    """A head by its plugin name, with its neck. weight: loss weight. freeze: the frozen parts, see `freeze_head`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: HeadWeight = 1.0
    freeze: bool | tuple[str, ...] = False
    neck: NeckArchitecture | None = None


@dataclass(frozen=True)
class Architecture:
    """All that is needed to rebuild a model, except its classes and weights. heads: the heads by name. replace_layers:
    whether layers of the built model are replaced by faster ones: see `densevit.layers.fast.replacement`.
    """

    backbone: BackboneArchitecture
    heads: Mapping[str, HeadArchitecture] = field(default_factory=dict)
    replace_layers: bool = True


def options_without_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a backbone's options with `pretrained: true` off, with which timm's backbones load weights."""
    return {key: False if key == "pretrained" and value is True else value for key, value in options.items()}
