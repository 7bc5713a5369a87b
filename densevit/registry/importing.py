"""Imports a plugin's module, and describes failures of imports and constructors."""

import importlib
import importlib.util
import os
import re
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from densevit.errors import PluginError, did_you_mean, one_line
from densevit.registry.groups import PLUGIN_GROUPS, Plugin

MODULE_CLASS = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def import_plugin(plugin: Plugin) -> Any:
    """Imports the object that a plugin names. Raises PluginError if the import fails."""
    if plugin.group != "commands" and not MODULE_CLASS.fullmatch(plugin.value):
        raise PluginError(f"{plugin} is not of the form module:Class, as in my_package.my_module:MyClass.")
    module, _, attribute = plugin.value.partition(":")
    try:
        with search_path(plugin.name):
            imported: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            if not hasattr(imported, part):
                raise PluginError(
                    f"{plugin}: {module} has no {attribute!r}.{_nearest_attribute(plugin, imported, part)}"
                )
            imported = getattr(imported, part)
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:  # an import may raise anything, such as SystemExit
        raise PluginError(f"{plugin} cannot be imported: {_reason(plugin, error)}") from error
    return imported


def search_path(name: str) -> AbstractContextManager[None]:
    """The context of a plugin's import and construction: `working_directory_on_path` if a config names the plugin as
    module:Class."""
    return working_directory_on_path() if MODULE_CLASS.fullmatch(name) else nullcontext()


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """A context in which Python finds modules in the working directory: while it imports and constructs those of a
    config, and while it starts processes, which get the path."""
    folder = os.getcwd()
    with ExitStack() as stack:
        if folder not in sys.path:
            sys.path.append(folder)
            stack.callback(sys.path.remove, folder)
        yield


def _nearest_attribute(plugin: Plugin, owner: Any, name: str) -> str:
    kinds = type if plugin.group in PLUGIN_GROUPS else type | types.FunctionType  # a schedule may be a function
    names = [key for key, value in getattr(owner, "__dict__", {}).items() if isinstance(value, kinds)]
    return did_you_mean(name, names)


def _reason(plugin: Plugin, error: BaseException) -> str:
    """Why an import failed, with the location, or the missing package and how to install it."""
    module_name = plugin.value.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name:
        if module_name == error.name or module_name.startswith(f"{error.name}."):
            if plugin.name != plugin.value:  # from an entry point
                return f"there is no module {error.name!r}."
            return (
                f"there is no module {error.name!r} in the working directory {os.getcwd()}, on PYTHONPATH or among the "
                "installed packages. Fix: run in its folder, add the folder to PYTHONPATH, or install its package."
            )
        return f"it needs {error.name!r}, which is not installed. Try `pip install {error.name.partition('.')[0]}`."
    return described_error(error, module_name)


def described_error(error: BaseException, module: str) -> str:
    """An error's type, message and location: "KeyError: 'width' (my_net.py, line 12)."

    module: the plugin's module; the location is the innermost frame in its package.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    root = _package_root(module)
    frames_of_plugin = [frame for frame in frames if frame.filename.startswith(root)]
    file, line, message = "", None, one_line(error)
    if frames:
        file, line = (frames_of_plugin or frames)[-1].filename, (frames_of_plugin or frames)[-1].lineno
    if isinstance(error, SyntaxError):
        file, line, message = error.filename or file, error.lineno, error.msg
    error_name = type(error).__name__
    where = f" ({file}, line {line})" if file and line else ""
    return f"{error_name}: {message}{where}." if message != error_name else f"{error_name}{where}."


def _package_root(module: str) -> str:
    """The folder of a module's top-level package, or the file of a top-level module."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    locations = [*spec.submodule_search_locations] if spec and spec.submodule_search_locations else []
    return locations[0] if locations else str(spec and spec.origin)
