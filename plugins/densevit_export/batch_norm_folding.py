"""Folds batch norms into the convolutions and linear layers before them (Jacob et al. 2018, section 3.2).

An example input shows which layer feeds a norm; the structure of the modules does not.
"""

import copy
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

Module = TypeVar("Module", bound=nn.Module)

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_STATISTICS = ("running_mean", "running_var", "weight", "bias")
_TOLERANCE = 1e-3  # of the largest output, between a norm and its folded form; wrong folding differs by more
_RECENT = 4  # number of layers whose inputs are kept for a following norm
_METADATA = ("__get__", "size", "dim", "numel", "is_floating_point", "is_contiguous")  # do not read values


def fold_batch_norms(module: Module, run: Callable[[Module], Any]) -> None:
    """Folds, in place, each batch norm whose input is the output of a convolution or linear layer.

    module: the module, in evaluation mode. run: calls the module on an example input; returns its outputs. Batch norms
    are modules with running statistics: torch's, and the frozen norms of torchvision, timm, transformers and densevit;
    a norm with an activation leaves its activation. A norm is not folded if the layer's output has another use, or if
    the outputs of the folded layer differ from the norm's, as for a layer that normalises its weights.
    """
    observed = _Observed()
    handles = [handle for layer in module.modules() for handle in observed.watch(layer)]
    try:
        with torch.no_grad(), observed:
            outputs = run(module)
        observed.use(outputs)
    finally:
        for handle in handles:
            handle.remove()
    _replace(module, observed.replacements())


@dataclass
class _Calls:
    """The calls of one layer. folded: the layer into which its norm is folded, and the module that replaces the norm;
    None if the norm cannot be folded."""

    count: int = 0
    norms: set[nn.Module] = field(default_factory=set)
    normed: int = 0
    used_elsewhere: bool = False
    folded: tuple[nn.Module, nn.Module] | None = None


class _Observed(TorchFunctionMode):
    """Records which layer's output is the input of which norm, and whether the output is used elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[nn.Module, _Calls] = {}
        self._norm_calls: dict[nn.Module, int] = {}
        self._layer_of = WeakIdKeyDictionary()  # by output
        self._inputs: deque[tuple[nn.Module, Tensor]] = deque(maxlen=_RECENT)
        self._inside = 0  # of norms

    def watch(self, module: nn.Module) -> list[Any]:
        """Adds hooks to a layer or norm; returns their handles."""
        if isinstance(module, _LAYERS):
            return [module.register_forward_hook(self._after_layer)]
        if is_batch_norm(module):
            return [
                module.register_forward_pre_hook(self._before_norm),
                module.register_forward_hook(self._after_norm, always_call=True),
            ]
        return []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._inside and getattr(func, "__name__", "") not in _METADATA:
            self.use((args, kwargs))
        return func(*args, **(kwargs or {}))

    def use(self, values: Any) -> None:
        """Records a use of tensors outside norms."""
        for value in pytree.tree_leaves(values):
            if isinstance(value, Tensor) and value in self._layer_of:
                self._calls[self._layer_of[value]].used_elsewhere = True

    def _after_layer(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls = self._calls.setdefault(layer, _Calls())
        calls.count += 1
        self._layer_of[output] = layer
        self._inputs.append((layer, inputs[0]))

    def _before_norm(self, norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inside += 1
        self._norm_calls[norm] = self._norm_calls.get(norm, 0) + 1
        layer = self._layer_of.get(inputs[0])
        if layer is not None:
            self._calls[layer].norms.add(norm)
            self._calls[layer].normed += 1

    def _after_norm(self, norm: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        layer = self._layer_of.get(inputs[0])
        inputs_of_layer = [x for recent, x in self._inputs if recent is layer]
        if layer is not None and inputs_of_layer and self._calls[layer].count == 1:
            with torch.inference_mode(False), torch.no_grad():  # weights outlive the mode of `run`
                self._calls[layer].folded = _folded(layer, norm, inputs_of_layer[-1], output)
        self._inside -= 1

    def replacements(self) -> dict[nn.Module, nn.Module]:
        """Replacements of the layers and norms that can be folded."""
        result: dict[nn.Module, nn.Module] = {}
        for layer, calls in self._calls.items():
            if calls.folded is None or calls.used_elsewhere or len(calls.norms) != 1:
                continue
            (norm,) = calls.norms
            if calls.count == calls.normed == self._norm_calls[norm]:  # shared layers have shared norms
                result[layer], result[norm] = calls.folded
        return result


def _folded(layer: nn.Module, norm: nn.Module, x: Tensor, expected: Tensor) -> tuple[nn.Module, nn.Module] | None:
    """Returns the layer into which the norm is folded, and the module that replaces the norm; None if the layer cannot
    be folded, or if the output of both differs from `expected`. x: the layer's input. expected: the norm's output."""
    grouped = isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups > 1
    if norm.training or layer.training or grouped or "weight" not in layer._parameters:  # a parametrized weight
        return None
    mean, variance, weight, bias = (getattr(norm, name) for name in _STATISTICS)
    if len(mean) != (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels):
        return None
    eps = getattr(norm, "eps", 1e-5)  # transformers' frozen norms hard-code it
    fused = _copied(layer)
    parameters: tuple[Any, Any] = (layer.weight, layer.bias)
    if isinstance(layer, nn.Linear):
        fused.weight, fused.bias = fuse_linear_bn_weights(*parameters, mean, variance, eps, weight, bias)
    else:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        fused.weight, fused.bias = fuse_conv_bn_weights(*parameters, mean, variance, eps, weight, bias, transposed)
    remaining = _remaining(norm)
    actual = remaining(fused(x))
    if actual.shape != expected.shape or (actual - expected).abs().max() > _TOLERANCE * expected.abs().max():
        return None
    return fused, remaining


def _copied(layer: nn.Module) -> Any:
    """A copy that shares parameters, without hooks."""
    result = copy.copy(layer)
    vars(result).update(_parameters=dict(layer._parameters), _forward_hooks=OrderedDict())
    return result


def _remaining(norm: nn.Module) -> nn.Module:
    """The dropout and activation of timm's norms; an identity for other norms."""
    parts = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    parts = [part for part in parts if not isinstance(part, nn.Identity)]
    if not parts:
        return nn.Identity()
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module has the statistics and parameters of a batch norm."""
    return isinstance(getattr(module, "running_mean", None), Tensor) and all(
        hasattr(module, name) for name in _STATISTICS
    )


def _replace(module: nn.Module, replacements: dict[nn.Module, nn.Module]) -> None:
    """Replaces submodules in place."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out repeated modules
            if child in replacements:
                parent.register_module(name, replacements[child])
