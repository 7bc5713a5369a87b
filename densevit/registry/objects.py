"""Plugins that are given as objects: instances, classes and `functools.partial`s."""

import functools
import importlib
from typing import Any

from densevit.constructor_call import Recorded, Unwritten, named_arguments, signature
from densevit.registry.groups import INTERFACES, POSITIONAL_ARGUMENTS


class ObjectName(str):
    """The name of an object, `module:Class`, with its class and, if it is an instance, the object itself. Copies have
    the text alone."""

    plugin: Any
    instance: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def object_section(value: Any) -> dict[str, Any]:
    """The section of an instance, a class or a `functools.partial`: its name and the options of its constructor.

    A module that returns feature maps of known channels and strides is described as a `ModuleBackbone`.
    """
    instance, derived = value, list[str]()
    if isinstance(value, type | functools.partial):
        call, instance = functools.partial(value), None
        plugin, options = call.func, named_arguments(call.func, *call.args, **call.keywords)
    else:
        if not isinstance(value, Recorded) and (hasattr(value, "feature_info") or hasattr(value, "strides")):
            value = instance = importlib.import_module("densevit.interfaces").ModuleBackbone(value)  # imports torch
        unknown, bases = Unwritten(type(value).__qualname__), [base.__name__ for base in type(value).__mro__]
        plugin, options = getattr(value, "constructor_call", (type(value), {"arguments": unknown}))
        groups = [group for group, base in INTERFACES.items() if base in bases and group != "datasets"]
        derived = [*signature(type(value)).parameters][: sum(len(POSITIONAL_ARGUMENTS[group]) for group in groups)]
    name = ObjectName(plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}")
    name.plugin, name.instance = type(value) if isinstance(plugin, str) else plugin, instance
    return {"name": name, **{key: option for key, option in options.items() if key not in derived}}
