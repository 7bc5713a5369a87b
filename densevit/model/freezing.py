"""Freezing: frozen parameters get no gradients, and frozen norms do not update their running statistics."""

from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from densevit.errors import ConfigError
from densevit.interfaces import Backbone, Head, Neck
from densevit.model.parameter_patterns import matching


def freeze_backbone(backbone: Backbone, what: bool | int | tuple[str, ...], stem: Iterable[str] = ()) -> None:
    """Freezes all parameters (True), the first `what` groups of `parameter_depths`, or parameters whose names match a
    pattern (`stages.0.*`). stem: names of parameters that only True freezes."""
    if what is True:
        backbone.requires_grad_(False)
        return
    if isinstance(what, tuple):
        _freeze_matching(dict(backbone.named_parameters()), what, "backbone.freeze")
    elif what:
        depths = backbone.parameter_depths()
        if what > len(depths):
            raise ConfigError(
                f"backbone.freeze is {what}, but the backbone has {len(depths)} depths. Fix: set a smaller number, or "
                "true to freeze all."
            )
        _freeze(parameter for depth in depths[:what] for parameter in depth)
    for name in stem:
        backbone.get_parameter(name).requires_grad_()


def freeze_head(head: Head, neck: Neck | None, what: bool | tuple[str, ...], where: str) -> None:
    """Freezes all parameters of a head and its neck (True), or parameters that match a pattern; the neck's are
    `neck.*`."""
    parameters = dict(head.named_parameters())
    if neck is not None:
        parameters |= {f"neck.{name}": parameter for name, parameter in neck.named_parameters()}
    if what is True:
        _freeze(parameters.values())
    elif what:
        _freeze_matching(parameters, what, where)


def frozen_modules(module: nn.Module) -> Iterator[nn.Module]:
    """Yields the outermost modules with parameters that are all frozen."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if trained and not any(trained):
        yield module
    elif not all(trained):
        for child in module.children():
            yield from frozen_modules(child)


def _freeze_matching(parameters: Mapping[str, nn.Parameter], patterns: Iterable[str], where: str) -> None:
    names = [name for pattern in patterns for name in matching(pattern, parameters, where)]
    _freeze(parameters[name] for name in names)


def _freeze(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(False)
