"""Creates plugins: validates the user's options and calls the constructor."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from densevit.constructor_call import call
from densevit.deprecation import current_name
from densevit.errors import DensevitError, PluginError, one_line
from densevit.registry.groups import POSITIONAL_ARGUMENTS
from densevit.registry.importing import described_error, search_path
from densevit.registry.plugin_loading import load

_MODULES = ("backbones", "necks", "heads", "methods")  # groups of torch modules


def create(
    group: str,
    name: str,
    *arguments: Any,
    options: Mapping[str, Any],
    where: str,
    offered: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Validates the options and builds a plugin. arguments: positional. options: the user's.

    offered: keyword arguments in `plugin_options.OPTIONAL_KEYWORDS`, for constructors that take them.
    """
    from densevit.registry.plugin_options import takes  # imports pydantic

    checked, plugin = check_options(group, name, options, where, positional=len(arguments)), load(group, name)
    checked |= {key: value for key, value in offered.items() if takes(plugin, key)}
    instance = construct(plugin, name, *arguments, options=checked, where=where)
    if group in _MODULES and "_parameters" not in vars(instance):
        raise PluginError(f"{where}: {name!r}: its constructor does not call super().__init__(). Fix: call it first.")
    if hasattr(instance, "constructor_call") and instance is not getattr(name, "instance", None):
        vars(instance)["constructor_call"] = (
            str(name),
            {key: value for key, value in instance.constructor_call[1].items() if key not in offered},
        )
    return instance


def construct(plugin: Callable[..., Any], name: str, *arguments: Any, options: Mapping[str, Any], where: str) -> Any:
    """Calls a plugin's constructor with checked options. Raises PluginError, with the line of code, for any exception
    in it. where: the section, for messages."""
    if (instance := getattr(name, "instance", None)) is not None:
        return instance
    try:
        with search_path(name):
            return call(plugin, *arguments, **options)
    except (DensevitError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin's constructor may raise anything, such as SystemExit
        why = one_line(error) if isinstance(error, ValueError) else described_error(error, plugin.__module__)
        raise PluginError(f"{where}: {name!r} cannot be built with these options: {why}") from error


def check_options(
    group: str,
    name: str,
    options: Mapping[str, Any],
    where: str,
    reserved: Iterable[str] = (),
    positional: int | None = None,
) -> dict[str, Any]:
    """Validates options and converts them to the types of the plugin's constructor; see `plugin_options.check`.

    where: the section that prefixes keys in messages, "backbone" or "heads.detection". reserved: other keys of the
    section, for suggestions. positional: the number of arguments that densevit passes; None: the group's.
    """
    from densevit.registry import plugin_options as signature  # imports pydantic

    options = {current_name(f"{group}:{name}.", key, where): value for key, value in options.items()}
    passed, offered = POSITIONAL_ARGUMENTS[group][:positional], signature.OPTIONAL_KEYWORDS.get(group, ())
    return signature.check(load(group, name), passed, name, options, where, reserved, offered)


def option_types(group: str, name: Any) -> dict[str, Any]:
    """The annotations of a plugin's options. Imports the plugin; raises PluginError if that fails."""
    from densevit.registry import plugin_options as signature  # imports pydantic

    plugin, offered = load(group, name), signature.OPTIONAL_KEYWORDS.get(group, ())
    accepted, _ = signature.accepted_options(plugin, POSITIONAL_ARGUMENTS[group], name, offered)
    return {key: parameter.annotation for key, parameter in accepted.items()}
