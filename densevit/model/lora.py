"""Low-rank adaptation (LoRA, Hu et al. 2021) of a backbone's linear layers, with the extra `peft`.

The backbone is frozen, and each adapted layer computes W x + alpha / rank * B A x, section 4.1. Adapters exist in
training only: they are added after pretrained weights are loaded, and merged into W when a model is saved. A model file
therefore contains the plain backbone's tensors, and needs no peft.
"""

import difflib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from torch import Tensor, nn

from densevit.config.model_schema import LoraSection
from densevit.config.plugin_checks import missing_peft
from densevit.errors import ConfigError
from densevit.interfaces import Backbone
from densevit.model.dense import DenseModel

_NAME = "default"  # peft's adapter name, part of the keys
_BASE, _A, _B = ".base_layer.", f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


def adapted_layers(backbone: Backbone, lora: LoraSection) -> list[str]:
    """The names of the linear layers that match `lora.targets`. Raises ConfigError for a pattern without a match, and
    for a backbone without linear layers."""
    linear = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"backbone.lora: {type(backbone).__name__} has no linear layers, which LoRA adapts. Fix: train it with "
            "optim.layer_decay, or freeze it with backbone.freeze."
        )
    chosen = dict.fromkeys(linear, False)
    for pattern in lora.targets:
        matches = [name for name in linear if fnmatchcase(name, pattern)]
        if not matches:
            leaves = dict.fromkeys(f"*.{name.rpartition('.')[2]}" for name in linear)
            near = difflib.get_close_matches(pattern, [*leaves, *linear], n=3, cutoff=0.4) or list(leaves)[:5]
            raise ConfigError(
                f"backbone.lora.targets: no linear layer of the backbone matches {pattern!r}. Closest: "
                f"{', '.join(near)}."
            )
        chosen |= dict.fromkeys(matches, True)
    return [name for name, is_chosen in chosen.items() if is_chosen]


def add_adapters(model: DenseModel) -> None:
    """Freezes the backbone, except for an adapted stem, and adds trained adapters to its linear layers if the model's
    sections contain `lora`.

    B starts at 0, so outputs do not change. Call this after loading pretrained weights: it renames the tensors of
    adapted layers. Raises ConfigError without peft; see also `adapted_layers`.
    """
    if (lora := model.sections.backbone.lora) is None:
        return
    if missing := missing_peft():
        raise ConfigError(missing)
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    names = adapted_layers(model.backbone, lora)
    stem = [model.backbone.get_parameter(name) for name in model.sections.backbone.adapted_stem]
    exact = "|".join(map(re.escape, names))  # peft matches a str with complete names
    scale: Any = lora.alpha  # peft declares an integer, but divides it
    config = LoraConfig(r=lora.rank, lora_alpha=scale, target_modules=exact)
    inject_adapter_in_model(config, model.backbone, _NAME)
    for parameter in stem:
        parameter.requires_grad_()
    for name in names:
        layer = model.backbone.get_submodule(name)
        assert type(layer) is Linear
        object.__setattr__(layer, "__class__", _with_adapted_weight(Linear))


def merged_state(state: Mapping[str, Tensor], lora: LoraSection | None) -> dict[str, Tensor]:
    """A state dict with adapters merged into the weights of their layers, with the layers' original names.

    Computes W + alpha / rank * B A in float32 at least. lora: None for a state dict without adapters.
    """
    merged: dict[str, Tensor] = {}
    for key, value in state.items():
        if lora is None or not (_BASE in key or key.endswith((_A, _B))):
            merged[key] = value
            continue
        layer, base, leaf = key.partition(_BASE)
        a, b = state.get(layer + _A), state.get(layer + _B)
        if base and leaf == "weight" and a is not None and b is not None:
            delta = lora.alpha / len(a) * (_full(b) @ _full(a))
            merged[f"{layer}.{leaf}"] = (_full(value) + delta).to(value.dtype)
        elif base:
            merged[f"{layer}.{leaf}"] = value
    return merged


def _full(x: Tensor) -> Tensor:
    return x.detach().double() if x.element_size() == 8 else x.detach().float()


@cache
def _with_adapted_weight(linear: type[nn.Module]) -> type[nn.Module]:
    """peft's linear layer with a `weight` that includes the adapter: some attentions (BEiT, EVA-02 and Swin V2, whose
    keys have no bias) read the weight instead of calling the layer, and would ignore the adapter."""
    return type(f"Lora{linear.__name__}", (linear,), {"weight": property(_adapted_weight)})


def _adapted_weight(layer: Any) -> Tensor:
    a, b = (getattr(layer, part)[_NAME].weight for part in ("lora_A", "lora_B"))
    return layer.base_layer.weight + layer.scaling[_NAME] * (b @ a)
