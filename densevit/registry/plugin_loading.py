"""Loads plugins by the name of an entry point, or by `module:Class`."""

import importlib
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from densevit.deprecation import current_name
from densevit.errors import PluginError, did_you_mean, nearest
from densevit.registry.finding import find, scan
from densevit.registry.groups import INTERFACES, Plugin, check_group, noun_of
from densevit.registry.importing import import_plugin

_WRAP = {  # for objects of other libraries
    "backbones": " For an existing model that returns feature maps: densevit.interfaces.ModuleBackbone(model, "
    "channels=(64, 128), strides=(8, 16)), with one number for each map; else see 'Wrap a model you have' in "
    "docs/own-backbone.md.",
    "datasets": ' For (image, target) as in torchvision: return {"image": uint8 (3, H, W), "targets": {"boxes": (N, 4) '
    'xyxy, "labels": (N,) from 0, "image_id": index}}, and set classes and provides (docs/own-dataset.md).',
}
_INSTANCES = ("checkpoints",)  # groups whose plugins are instances of the interface; elsewhere, subclasses


def load(group: str, name: str) -> Any:
    """Imports a plugin's class by its name, or by "module:Class", which needs no entry point.

    Plugins of "checkpoints" are instances, not classes. Raises PluginError for an unknown name, a failed import, or an
    object that is not a subclass (an instance) of the group's interface.
    """
    check_group(group)
    plugin = _named(group, name)
    loaded = getattr(name, "plugin", None) or import_plugin(plugin)
    if group in INTERFACES:
        _check_interface(plugin, loaded)
    return loaded


def load_all(group: str, otherwise: str = "") -> Iterator[Any]:
    """Yields the plugins of a group, without those that cannot be loaded. otherwise: a sentence on these, with which it
    warns of them."""
    for name in find(group):
        try:
            plugin = load(group, name)
        except PluginError as error:
            if otherwise:
                warnings.warn(f"{error} {otherwise}", stacklevel=4)
        else:
            yield plugin


def load_command(name: str) -> types.ModuleType:
    """Imports a command's module. Raises PluginError for a failed import, and without `add_arguments` or `run`."""
    plugin = find("commands")[name]
    module: types.ModuleType = import_plugin(plugin)
    for function in ("add_arguments", "run"):
        if not callable(getattr(module, function, None)):
            raise PluginError(f"{plugin} has no function {function!r}. Fix: see docs/own-plugins.md.")
    return module


def public_name(name: str) -> Any:
    """A name of `densevit.__all__` or `densevit.testing` from a plugin. Raises PluginError if no plugin provides it."""
    names = find("names")
    if name not in names:
        raise PluginError(f"densevit.{name} is not installed. Fix: install densevit again (`pip install -e .`).")
    return import_plugin(names[name])


def import_object(noun: str, name: str) -> Any:
    """Imports `module:Name`, such as a callback or a schedule. noun: the noun in messages. Raises PluginError."""
    return getattr(name, "plugin", None) or import_plugin(Plugin(noun, name, value=name))


def _named(group: str, name: str) -> Plugin:
    if not isinstance(name, str):
        raise PluginError(
            f"The name of a {noun_of(group)} is text, such as {next(iter(find(group)), 'name')!r}; found {name!r}. "
            "Fix: pass its options as keyword arguments."
        )
    if ":" in name:
        return Plugin(group, name, value=name)
    plugins, name = find(group), current_name(f"{group}:", name)
    if name not in plugins:
        raise PluginError(_unknown(group, name, plugins))
    return plugins[name]


def _unknown(group: str, name: str, plugins: Mapping[str, Plugin]) -> str:
    noun, hint = noun_of(group), did_you_mean(name, plugins)
    if group == "backbones":
        sources = [source() for source in load_all("sources")]
        near = "" if nearest(name, plugins) else nearest(name, [x for source in sources for x in source.backbones()])
        hint += f"{near} Or the backbone of weights: {', '.join(x for source in sources for x in source.forms)}."
    broken = "".join(f" {problem}" for problem in scan().broken)
    none = "" if plugins else f" No {noun} is installed."
    module, dot, attribute = name.rpartition(".")
    class_hint = f" For the class {attribute} of the module {module} write {module}:{attribute}." if dot else ""
    return f"There is no {noun} {name!r}.{class_hint}{hint}{none}{broken}"


def _check_interface(plugin: Plugin, loaded: Any) -> None:
    """Raises PluginError unless the object is a subclass, or an instance, of the group's interface."""
    module, _, class_name = INTERFACES[plugin.group].rpartition(".")
    expected = getattr(importlib.import_module(module or "densevit.interfaces"), class_name)  # imports torch
    is_instance_group = plugin.group in _INSTANCES
    if isinstance(loaded, expected) if is_instance_group else isinstance(loaded, type) and issubclass(loaded, expected):
        if is_instance_group and plugin.name not in (plugin.value, loaded.name):
            raise PluginError(f"{plugin} is named {loaded.name!r} in its module; expected the entry point's name.")
        return
    what = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
    attribute, interface = plugin.value.rpartition(":")[2], f"{module or 'densevit'}.{class_name}"
    fix = f"{attribute} = {interface}(...)" if is_instance_group else f"class {attribute}({interface})"
    wrap = _WRAP.get(plugin.group, "") if hasattr(loaded, "forward") or hasattr(loaded, "__getitem__") else ""
    raise PluginError(f"{plugin} is {what}, which is not a {interface}. Write `{fix}`.{wrap}")
