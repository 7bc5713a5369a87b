"""Plugins that are given as objects: instances, classes and `functools.partial`s."""

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from densevit.constructor_call import Recorded, Unwritten, named_arguments, without_first
from densevit.registry.groups import INTERFACES, POSITIONAL_ARGUMENTS


class ObjectName(str):
    """The name of an object, `module:Class`, with its class and, if it is an instance, the object itself. Copies have
    the text alone.

    options: those of its constructor. positional: the arguments before them, which densevit passes.
    """

    plugin: Any
    instance: Any
    options: Mapping[str, Any]
    positional: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def object_section(value: Any) -> dict[str, Any]:
    """The section of an instance, a class or a `functools.partial`: its name and the options of its constructor.

    A module that returns feature maps of known channels and strides is described as a `ModuleBackbone`.
    """
    instance: Any = value
    plugin_class: Any = type(value)
    if isinstance(value, type | functools.partial):
        call, instance = functools.partial(value), None
        plugin_class = plugin = call.func
        options = named_arguments(plugin, *call.args, **call.keywords)
    else:
        if not isinstance(value, Recorded) and (hasattr(value, "feature_info") or hasattr(value, "strides")):
            value = instance = importlib.import_module("densevit.interfaces").ModuleBackbone(value)  # imports torch
            plugin_class = type(value)
        unknown = Unwritten(plugin_class.__qualname__)
        plugin, options = getattr(value, "constructor_call", (plugin_class, {"arguments": unknown}))
    bases = [base.__name__ for base in getattr(plugin_class, "__mro__", ())]
    groups = [group for group, base in INTERFACES.items() if base in bases and group != "datasets"]
    name = ObjectName(plugin if isinstance(plugin, str) else f"{plugin.__module__}:{plugin.__qualname__}")
    name.plugin, name.instance = plugin_class if isinstance(plugin, str) else plugin, instance
    name.positional = tuple(argument for group in groups for argument in POSITIONAL_ARGUMENTS[group])
    name.options = options if instance is None else without_first(name.positional, name.plugin, options)
    return {"name": name, **name.options}
