"""Adapts the first layers of pretrained backbones to the channels of other images."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from densevit import registry
from densevit.channels import RGB
from densevit.model.architecture import BackboneArchitecture, options_without_weights

StateDict = Mapping[str, Tensor]


def stem_tensors(backbone: BackboneArchitecture) -> list[str]:
    """The names of a backbone's tensors whose second dimension is the channels of the image: those in which models for
    three and for four channels differ."""
    options = {key: value for key, value in options_without_weights(backbone.options).items() if key != "in_channels"}
    with torch.device("meta"):
        three, four = (
            registry.create("backbones", backbone.name, options=options | {"in_channels": count}, where="backbone")
            for count in (3, 4)
        )
    shapes = {name: value.shape for name, value in three.state_dict().items()}
    return [name for name, value in four.state_dict().items() if value.shape != shapes[name]]


def adapted(kernel: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """The weight (O, S, ...) of a first layer for the S channels `source`, for the T channels `target`: (O, T, ...).

    A channel of the same name keeps its filters, others start from the mean of all. The result is scaled by S / T
    unless both have the same names: on an image whose normalised channels are equal, the output is the one before if
    all or none of the source's names are kept. One channel has the sum of all.
    """
    names = [*source]
    if len(target) == 1 and set(target) != set(source):
        return kernel.sum(1, keepdim=True)
    mean = kernel.mean(1)
    filters = [kernel[:, names.index(name)] if name in names else mean for name in target]
    scale = 1 if set(target) == set(source) else len(source) / len(target)
    return torch.stack(filters, 1) * scale


def adapted_state(
    state: StateDict, backbone: BackboneArchitecture, source: Sequence[str], prefix: str = ""
) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a model for the channels `source`, with the first layers of its backbone for this backbone's
    channels, and the keys of these layers.

    prefix: of the backbone's keys. Tensors that do not have the source's channels are left as they are.
    """
    target = (backbone.channels or RGB).names
    if tuple(source) == target:
        return dict(state), []
    keys = [f"{prefix}{name}" for name in stem_tensors(backbone)]
    keys = [key for key in keys if key in state and state[key].ndim > 1 and state[key].shape[1] == len(source)]
    return {**state, **{key: adapted(state[key], source, target) for key in keys}}, keys
