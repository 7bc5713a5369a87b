"""timm's models, built with its arguments and weights, and what timm states about them."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, cast

import timm
from torch import nn

from densevit.errors import DensevitError, PluginError, WeightsError
from densevit_backbones.hub_files import Repository, timm_arguments

_NO_NETWORK = (
    "backbone=efficientnet_lite0, whose weights are a Python package, or backbone.pretrained=false "
    "backbone.weights=FILE with a file that was downloaded elsewhere"
)


def build(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    """Builds a model of timm. arguments: options of timm.create_model.

    Raises PluginError for a name or arguments that timm does not take, WeightsError for weights that cannot be loaded.
    """
    _check_name(name)
    if pretrained and ":" not in name and (config := timm.get_pretrained_cfg(name)) is not None:
        arguments = {**arguments, **timm_arguments(f"timm:{name}", config, _NO_NETWORK)}
    try:
        model = timm.create_model(name, pretrained=pretrained, **arguments)
    except Exception as error:
        raise _failure(name, pretrained, arguments, error) from None
    for module in model.modules():
        if isinstance(module, nn.Hardtanh | nn.SiLU | nn.Hardswish):
            module.inplace = False  # in place, autograd would copy the input first
    return model


def _check_name(name: str) -> None:
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=5, cutoff=0.5)
        hint = f" Similar names: {', '.join(near)}." if near else " timm.list_models('*net*') lists them."
        raise PluginError(f"backbone.model: timm {timm.__version__} has no model {name!r}.{hint}")
    if name.startswith(("hf-hub:", "hf_hub:")) and "@" not in name:
        Repository(name, name.partition(":")[2], _NO_NETWORK).first(["config.json"])


def _failure(name: str, pretrained: bool, arguments: Mapping[str, Any], error: Exception) -> DensevitError:
    """The error of a model that timm does not build."""
    if isinstance(error, TypeError):
        return PluginError(f"backbone.model_args: timm's {name!r} does not take them: {error}")
    reason = " ".join(str(error).split()) or type(error).__name__
    if pretrained or ":" in name:
        return WeightsError(
            f"The weights of timm's {name!r} cannot be loaded: {reason} Check the connection or timm's cache "
            "(HF_HOME), name existing weights (timm.list_pretrained()), or set backbone.pretrained=false."
        )
    return PluginError(f"timm's {name!r} cannot be built with {dict(arguments)}: {reason}")


def metadata(model: nn.Module) -> dict[str, Any]:
    """timm's metadata of a model and its weights: `mean`, `std`, `input_size` and others."""
    return cast(dict[str, Any], model.pretrained_cfg)


def takes(model: nn.Module, argument: str) -> bool:
    """Whether a constructor of the model's classes has this argument; timm passes unknown arguments on to them."""
    constructors = (vars(base).get("__init__") for base in type(model).__mro__)
    return any(argument in inspect.signature(made).parameters for made in constructors if made is not None)
