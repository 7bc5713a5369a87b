"""Adapts the first layers of pretrained backbones to the channels of other images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from densevit import registry
from densevit.channels import RGB
from densevit.config import BackboneSection
from densevit.errors import ConfigError
from densevit.model.meta_device import built_on_meta
from densevit.registry.plugin_options import OptionError

StateDict = Mapping[str, Tensor]


def stem_tensors(backbone: BackboneSection) -> list[str]:
    """The names of a backbone's tensors whose second dimension is the image channels: models for three and four
    channels differ in them. Raises ConfigError if the constructor has no `in_channels`."""

    def shapes(count: int) -> dict[str, tuple[int, ...]]:
        options = {**backbone.unloaded_options, "in_channels": count}
        built = built_on_meta(lambda: registry.create("backbones", backbone.name, options=options, where="backbone"))
        return {name: tuple(value.shape) for name, value in built.state_dict().items()}

    try:
        three, four = shapes(3), shapes(4)
    except OptionError as error:
        raise ConfigError(
            f"backbone {backbone.name!r} has no in_channels, so its first layer is unknown, and weights of "
            "other channels cannot be adapted. Fix: let its constructor take in_channels, or load no weights."
        ) from error
    return [name for name, shape in four.items() if shape[1:2] == (4,) and three.get(name) == (shape[0], 3, *shape[2:])]


def adapted(kernel: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """Converts the weight (O, S, ...) of a first layer from the S channels `source` to the T channels `target`:
    (O, T, ...).

    A channel of the same name keeps its filters, others start from the mean of all filters. The result is scaled by
    S / T unless both have the same names: on an image with equal normalised channels, the output stays the same if all
    or none of the source's names are kept. A single target channel gets the sum of all filters.

    Standardised filters (ViT's stem "resnet", some timm models) have no scale, so this holds only roughly.
    """
    names = [*source]
    if len(target) == 1 and has_new_filters(source, target):
        return kernel.sum(1, keepdim=True)
    mean = kernel.mean(1)
    filters = [kernel[:, names.index(name)] if name in names else mean for name in target]
    scale = 1 if set(target) == set(source) else len(source) / len(target)
    return torch.stack(filters, 1) * scale


def has_new_filters(source: Sequence[str], target: Sequence[str]) -> bool:
    """Whether `adapted` computes a filter that differs from the source's filter of the same channel. Such a layer must
    be trained: new filters are equal, so the model sees only the sum of their channels."""
    return not set(target) <= set(source) or len(target) == 1 < len(source)


def adapted_state(
    state: StateDict, backbone: BackboneSection, source: Sequence[str], prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, Sequence[str]]]:
    """Converts the first layers of a backbone's state dict from the channels `source` to the channels of `backbone`.
    Returns the state dict and, by key of each of these layers, its former channels.

    prefix: the prefix of the backbone's keys. Tensors of one channel are adapted as grey images (`fit` does so for
    RGB); tensors with a number of channels other than the source's stay unchanged. Raises ConfigError if a completely
    frozen backbone gets new filters.
    """
    target = (backbone.channels or RGB).names
    if tuple(source) == target:
        return dict(state), {}
    keys = [f"{prefix}{name}" for name in stem_tensors(backbone)]
    sources = {1: ("grey",), len(source): source}
    keys = [key for key in keys if key in state and state[key].ndim > 1 and state[key].shape[1] in sources]
    stem = {key: sources[state[key].shape[1]] for key in keys}
    new = [key for key, channels in stem.items() if has_new_filters(channels, target)]
    if new and backbone.freeze is True:
        raise ConfigError(
            f"backbone.freeze is true, but the weights are for {', '.join(stem[new[0]])} and the images have "
            f"{', '.join(target)}: {', '.join(new)} is adapted to them and must be trained. Fix: backbone.freeze=1, or "
            "more depths; an adapted first layer is trained in them."
        )
    return {**state, **{key: adapted(state[key], channels, target) for key, channels in stem.items()}}, stem
