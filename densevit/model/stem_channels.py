"""Adapts the first layers of pretrained backbones to the channels of other images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from densevit import registry
from densevit.channels import RGB
from densevit.config import BackboneSection
from densevit.errors import ConfigError
from densevit.model.meta_device import built_on_meta
from densevit.registry.options import OptionError

StateDict = Mapping[str, Tensor]


def stem_tensors(backbone: BackboneSection) -> list[str]:
    """The names of a backbone's tensors whose second dimension is the channels of the image: those in which models for
    three and for four channels differ. Raises ConfigError if its constructor has no `in_channels`."""

    def shapes(count: int) -> dict[str, tuple[int, ...]]:
        options = {**backbone.unloaded_options, "in_channels": count}
        built = built_on_meta(lambda: registry.create("backbones", backbone.name, options=options, where="backbone"))
        return {name: tuple(value.shape) for name, value in built.state_dict().items()}

    try:
        three, four = shapes(3), shapes(4)
    except OptionError as error:
        raise ConfigError(
            f"backbone {backbone.name!r} has no in_channels, so that its first layer is not known, and weights of "
            "other channels cannot be adapted. Fix: let its constructor take in_channels, or load no weights."
        ) from error
    return [name for name, shape in four.items() if shape[1:2] == (4,) and three.get(name) == (shape[0], 3, *shape[2:])]


def adapted(kernel: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """The weight (O, S, ...) of a first layer for the S channels `source`, for the T channels `target`: (O, T, ...).

    A channel of the same name keeps its filters, others start from the mean of all. The result is scaled by S / T
    unless both have the same names: on an image whose normalised channels are equal, the output is the one before if
    all or none of the source's names are kept. One channel has the sum of all.

    Standardised filters (ViT's stem "resnet", some of timm's models) have no scale, so that this holds only roughly.
    """
    names = [*source]
    if len(target) == 1 and has_new_filters(source, target):
        return kernel.sum(1, keepdim=True)
    mean = kernel.mean(1)
    filters = [kernel[:, names.index(name)] if name in names else mean for name in target]
    scale = 1 if set(target) == set(source) else len(source) / len(target)
    return torch.stack(filters, 1) * scale


def has_new_filters(source: Sequence[str], target: Sequence[str]) -> bool:
    """Whether `adapted` computes a filter that is not the source's of the same channel. Such a layer must be trained:
    new filters are equal, and the model sees the sum of their channels only."""
    return not set(target) <= set(source) or len(target) == 1 < len(source)


def adapted_state(
    state: StateDict, backbone: BackboneSection, source: Sequence[str], prefix: str = ""
) -> tuple[dict[str, Tensor], dict[str, Sequence[str]]]:
    """The state dict of a model for the channels `source`, with the first layers of its backbone for this backbone's
    channels, and the channels that each of these layers was for, by its key.

    prefix: the prefix of the backbone's keys. Tensors of one channel are adapted as those of grey images
    (`fit` does so for RGB); those of another number than the source's are left as they are. Raises ConfigError if a
    backbone that is completely frozen gets new filters.
    """
    target = (backbone.channels or RGB).names
    if tuple(source) == target:
        return dict(state), {}
    keys = [f"{prefix}{name}" for name in stem_tensors(backbone)]
    sources = {1: ("grey",), len(source): source}
    keys = [key for key in keys if key in state and state[key].ndim > 1 and state[key].shape[1] in sources]
    stem = {key: sources[state[key].shape[1]] for key in keys}
    new = [key for key, own in stem.items() if has_new_filters(own, target)]
    if new and backbone.freeze is True:
        raise ConfigError(
            f"backbone.freeze is true, but the weights are for {', '.join(stem[new[0]])} and the images have "
            f"{', '.join(target)}: {', '.join(new)} is adapted to them and must be trained. Fix: backbone.freeze=1, or "
            "more depths; an adapted first layer is trained in them."
        )
    return {**state, **{key: adapted(state[key], own, target) for key, own in stem.items()}}, stem
