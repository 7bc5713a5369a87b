"""Registry of plugins: finds them in the entry points of installed distributions, and loads them on demand.

Built-in plugins are entry points as well. Finding plugins imports nothing; loading one imports its module alone, so a
broken plugin affects only configs that use it.
"""

import ast
import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from densevit.errors import DensevitError, PluginError, did_you_mean, one_line
from densevit.registry.trust import MODULE_CLASS, NameInFile

INTERFACES = {
    "backbones": "Backbone",
    "necks": "Neck",
    "heads": "Head",
    "datasets": "Dataset",
    "evaluators": "Evaluator",
    "targets": "TargetType",
    "methods": "Method",
    "checkpoints": "CheckpointLayout",
}
_OTHERS = {"commands": "command", "names": "public name"}  # modules of the command line; names of `densevit.__all__`
GROUPS = (*INTERFACES, *_OTHERS)
_MODULES = ("backbones", "necks", "heads", "methods")
_INSTANCES = ("checkpoints",)  # groups whose plugins are instances of the interface; in other groups, subclasses


@dataclass(frozen=True)
class Plugin:
    """One plugin, not yet imported. value: "module:Attribute". origin: its distribution, "densevit 0.1.0"."""

    group: str
    name: str
    value: str
    origin: str

    @property
    def noun(self) -> str:
        """The plugin's name in messages: "backbone 'swin'"."""
        return f"{_noun(self.group)} {self.name!r}"


@dataclass(frozen=True)
class Scan:
    """The entry points of all installed distributions."""

    plugins: dict[tuple[str, str], Plugin] = field(default_factory=dict)  # by group and name
    shadowed: list[tuple[Plugin, Plugin]] = field(default_factory=list)  # (hidden, used plugin of the same name)
    broken: list[str] = field(default_factory=list)  # a sentence per invalid entry point


def find(group: str) -> dict[str, Plugin]:
    """All plugins of a group by name, without importing them. Warns about a name in two distributions."""
    _check_group(group)
    found = scan()
    for hidden, winner in found.shadowed:
        if hidden.group == group:
            warnings.warn(f"{hidden.origin} offers {hidden.noun}, but {winner.origin} has that name.", stacklevel=2)
    return {name: plugin for (where, name), plugin in sorted(found.plugins.items()) if where == group}


def load(group: str, name: str) -> Any:
    """The class of a plugin, by its name or by "module:Class", which needs no entry point.

    A checkpoint layout is an instance, not a class. Imports the plugin's module. Raises PluginError for an unknown
    name, a "module:Class" in a file whose module is not trusted, a failed import, or an object that is not a subclass
    (an instance) of the group's interface.
    """
    _check_group(group)
    if not isinstance(name, str):
        raise PluginError(
            f"The name of a {_noun(group)} is text, such as {next(iter(find(group)), 'name')!r}; found {name!r}. Fix: "
            "give its options as keyword arguments."
        )
    if ":" in name:
        plugin = Plugin(group, name, value=name, origin="the config")
    else:
        known = find(group)
        if name not in known:
            raise PluginError(_unknown(group, name, known))
        plugin = known[name]
    loaded = _import(plugin)
    interfaces = importlib.import_module("densevit.interfaces")  # late: it imports torch
    expected = getattr(interfaces, INTERFACES[group])
    if group in _INSTANCES and isinstance(loaded, expected):
        return loaded
    if group in _INSTANCES or not (isinstance(loaded, type) and issubclass(loaded, expected)):
        what = f"the class {loaded.__name__}" if isinstance(loaded, type) else f"a {type(loaded).__name__}"
        attribute, interface = plugin.value.rpartition(":")[2], f"densevit.{expected.__name__}"
        fix = f"{attribute} = {interface}(...)" if group in _INSTANCES else f"class {attribute}({interface})"
        is_model = group == "backbones" and hasattr(loaded, "register_parameter")
        wrap = " For an existing model, see 'Wrap a model you have' in docs/own-backbone.md." if is_model else ""
        raise PluginError(f"{_described(plugin)} is {what}, which is not a {interface}. Write `{fix}`.{wrap}")
    return loaded


def load_command(name: str) -> types.ModuleType:
    """The module of a command. Raises PluginError if it cannot be imported, or lacks `add_arguments` or `run`."""
    plugin = find("commands")[name]
    module: types.ModuleType = _import(plugin)
    for function in ("add_arguments", "run"):
        if not callable(getattr(module, function, None)):
            raise PluginError(f"{_described(plugin)} has no function {function!r}. Fix: see docs/own-command.md.")
    return module


def public_name(name: str) -> Any:
    """A name of `densevit.__all__` that a plugin provides. Raises PluginError if none does."""
    known = find("names")
    if name not in known:
        raise PluginError(f"densevit.{name} is not installed. Fix: install densevit again (`pip install -e .`).")
    return _import(known[name])


def create(
    group: str,
    name: str,
    *given: Any,
    options: Mapping[str, Any],
    where: str,
    offered: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Validates the options and builds a plugin. given: positional arguments. options: the user's.

    offered: keyword arguments of `options.OFFERED`, for a constructor that takes them.
    """
    from densevit.registry.options import takes  # late: it imports pydantic

    checked, plugin = check_options(group, name, options, where), load(group, name)
    checked |= {key: value for key, value in offered.items() if takes(plugin, key)}
    instance = construct(plugin, name, *given, options=checked, where=where)
    if group in _MODULES and "_parameters" not in vars(instance):
        raise PluginError(f"{where}: {name!r}: its constructor does not call super().__init__(). Fix: call it first.")
    return instance


def construct(plugin: Callable[..., Any], name: str, *given: Any, options: Mapping[str, Any], where: str) -> Any:
    """Calls a class with checked options. Raises PluginError, with the line of code, for any exception of the class."""
    try:
        return plugin(*given, **options)
    except (DensevitError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a plugin's constructor may raise anything, such as SystemExit
        why = one_line(error) if isinstance(error, ValueError) else _where_and_why(error, plugin.__module__)
        raise PluginError(f"{where}: {name!r} cannot be built with these options: {why}") from error


def import_object(noun: str, name: str) -> Any:
    """Imports `module:Name`, such as a callback or an optimiser. noun: its kind, for messages. Raises PluginError."""
    return _import(Plugin(noun, name, value=name, origin="the config"))


def check_options(
    group: str, name: str, options: Mapping[str, Any], where: str, reserved: Iterable[str] = ()
) -> dict[str, Any]:
    """The options, validated and converted to the types of the plugin's constructor; see `options.check`.

    where: the section that prefixes keys in messages, "backbone" or "heads.detection". reserved: other keys of the
    section, for suggestions.
    """
    from densevit.registry import options as signature  # late: it imports pydantic

    given, offered = signature.GIVEN[group], signature.OFFERED.get(group, ())
    return signature.check(load(group, name), given, name, options, where, reserved, offered)


def list_backbones() -> list[str]:
    """Names of all installed backbones."""
    return list(find("backbones"))


def list_checkpoints() -> list[str]:
    """Names of all installed checkpoint layouts."""
    return list(find("checkpoints"))


def list_datasets() -> list[str]:
    """Names of all installed data sets."""
    return list(find("datasets"))


def list_evaluators() -> list[str]:
    """Names of all installed evaluators."""
    return list(find("evaluators"))


def list_heads() -> list[str]:
    """Names of all installed heads."""
    return list(find("heads"))


def list_methods() -> list[str]:
    """Names of all installed training methods."""
    return list(find("methods"))


def list_necks() -> list[str]:
    """Names of all installed necks."""
    return list(find("necks"))


def list_targets() -> list[str]:
    """The target keys that have an installed type."""
    return list(find("targets"))


def first_line(plugin: Plugin) -> str:
    """The first line of the class's docstring, from the source file, without importing it; empty if it has none.

    For an instance or a command, the first line of its module's docstring.
    """
    module, _, attribute = plugin.value.partition(":")
    try:
        return _docstring(module, attribute, hops=5).partition("\n")[0]
    except Exception as error:  # an invalid source file; `__main__` has none
        return f"(unreadable: {one_line(error)})"


# ---- scanning distributions ----


def scan() -> Scan:
    """The plugins of all distributions, cached by sys.path."""
    return _scan(tuple(sys.path))


@functools.cache
def _scan(path: tuple[str, ...]) -> Scan:
    result = Scan()
    offers: dict[str, tuple[str, list[Plugin]]] = {}  # by distribution: kind of metadata, plugins
    for distribution in importlib.metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if "densevit" not in text.lower():
                continue
            metadata = distribution.metadata
            name, version = metadata["Name"] or "a nameless distribution", metadata["Version"] or "of no version"
            kind = "egg-info" if distribution.read_text("METADATA") is None else "dist-info"
        except Exception as error:
            result.broken.append(f"A distribution cannot be read: {one_line(error)} ({_place(distribution)}).")
            continue
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in offers and not (offers[key][0] == "egg-info" and kind == "dist-info"):
            continue  # twice on the path: Python imports the first, but an egg-info may be outdated
        origin = f"{name} {version}"
        plugins = []
        for group, entry, value in _entries(text):
            if value is None:
                result.broken.append(f"{origin} has a malformed entry point, {entry!r} under [densevit.{group}].")
            else:
                plugins.append(Plugin(group, entry, value, origin))
        offers[key] = (kind, plugins)
        result.broken.extend(f"{origin} has entry points under {problem}" for problem in _unknown_groups(text))
    for key in sorted(offers, key=lambda key: key != "densevit"):  # stable sort: built-in plugins first
        for plugin in offers[key][1]:
            winner = result.plugins.setdefault((plugin.group, plugin.name), plugin)
            if winner is not plugin:
                result.shadowed.append((plugin, winner))
    return result


def _entries(text: str) -> Iterator[tuple[str, str, str | None]]:
    """Yields (group, name, value) of each densevit entry point in an entry_points.txt; value None if malformed.

    Not parsed by `importlib.metadata`, because it rejects the complete file, and in some versions all files.
    """
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[] ").removeprefix("densevit.") if line.startswith("[densevit.") else ""
        elif group in GROUPS and line and not line.startswith("#"):
            name, _, value = (part.strip() for part in line.partition("="))
            value = re.sub(r"\s*\[.*\]$", "", value)  # optional extras
            form = r"[\w.]+" if group == "commands" else r"[\w.]+\s*:\s*[\w.]+"
            good = name and re.fullmatch(form, value)
            yield group, (name if good else line), (re.sub(r"\s", "", value) if good else None)


def _unknown_groups(text: str) -> Iterator[str]:
    """Sections of an entry_points.txt that resemble a plugin group, but are not one."""
    for name in re.findall(r"^\s*\[\s*(densevit[._-][^]]*?)\s*\]", text, re.IGNORECASE | re.MULTILINE):
        if name not in {f"densevit.{group}" for group in GROUPS}:
            group = re.split(r"[._-]", name, maxsplit=1)[1].strip().lower()
            hint = did_you_mean(group, GROUPS).replace("Did you mean '", "Did you mean 'densevit.")
            yield f"[{name}], which is not a plugin group.{hint}"


def _place(distribution: importlib.metadata.Distribution) -> str:
    return str(getattr(distribution, "_path", "at an unknown place"))


# ---- docstrings without importing ----


def _docstring(module: str, name: str, hops: int) -> str:
    """The docstring of a class or function, or of an instance's module, from the source file. name: "" for a module's.

    Follows at most `hops` `from ... import` statements.
    """
    source = _source(module)
    if source is None:
        return ""
    package = module.split(".") if source.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(source.read_text(encoding="utf-8"))
    if not name:
        return ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return ast.get_docstring(tree) or ""
        if isinstance(node, ast.ImportFrom) and hops:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    above = package[: len(package) + 1 - node.level] if node.level else []
                    return _docstring(".".join([*above, *filter(None, [node.module])]), alias.name, hops - 1)
    return ""


def _source(module: str) -> Path | None:
    """The file of a module. Imports no parent package, unlike `importlib.util.find_spec`."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    for name in below:
        top = f"{top}.{name}"
        locations = spec.submodule_search_locations if spec else None
        spec = importlib.machinery.PathFinder.find_spec(top, locations) if locations else None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


# ---- importing a plugin ----


def _import(plugin: Plugin) -> Any:
    module_name, _, attribute = plugin.value.partition(":")
    if plugin.group != "commands" and not MODULE_CLASS.fullmatch(plugin.value):
        raise PluginError(f"{_described(plugin)} is not of the form module:Class, as in my_package.my_module:MyClass.")
    if isinstance(plugin.value, NameInFile):
        _check_trusted(plugin, plugin.value)
    elif plugin.name == plugin.value and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a config's module:Class may be in the working directory
    try:
        found: Any = importlib.import_module(module_name)
        for part in filter(None, attribute.split(".")):
            if not hasattr(found, part):
                kinds = type if plugin.group in GROUPS else type | types.FunctionType  # a schedule may be a function
                known = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, kinds)]
                hint = did_you_mean(part, known)
                raise PluginError(f"{_described(plugin)}: {module_name} has no {attribute!r}.{hint}")
            found = getattr(found, part)
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:  # an import may raise anything, such as SystemExit
        raise PluginError(f"{_described(plugin)} cannot be imported: {_reason(plugin, error)}") from error
    return found


def _check_trusted(plugin: Plugin, name: NameInFile) -> None:
    if not name.trusted:
        module = name.partition(":")[0]
        raise PluginError(
            f"{_described(plugin)} is named in {name.file}. This file may be from another person, so only installed "
            f"plugins are imported, and not the module {module!r}, whose code would run. Fix: if the file is from your "
            f"own run, name the run's folder; if you trust the module, use densevit.load(..., trust=[{module!r}]) or "
            f"--trust {module}."
        )


def _reason(plugin: Plugin, error: BaseException) -> str:
    """The reason of a failed import, with its location, or the missing package and how to install it."""
    module_name = plugin.value.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name:
        if module_name == error.name or module_name.startswith(f"{error.name}."):
            if plugin.name != plugin.value:  # named by an entry point
                return f"there is no module {error.name!r}."
            if isinstance(plugin.value, NameInFile):
                return (
                    f"there is no module {error.name!r} on PYTHONPATH or among the installed packages; the working "
                    "directory is searched for a config's modules only. Fix: add its folder to PYTHONPATH, or install "
                    "its package."
                )
            return (
                f"there is no module {error.name!r} in the working directory {os.getcwd()}, on PYTHONPATH or among the "
                "installed packages. Fix: run in its folder, add the folder to PYTHONPATH, or install its package."
            )
        return f"it needs {error.name!r}, which is not installed. {_install_hint(plugin, error.name.partition('.')[0])}"
    return _where_and_why(error, module_name)


def _where_and_why(error: BaseException, module: str) -> str:
    """An error's type, message and location: "KeyError: 'width' (my_net.py, line 12)."

    module: of the plugin; the location is the innermost frame in its package.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    root = _package_root(module)
    own = [frame for frame in frames if frame.filename.startswith(root)]
    file, line, message = "", None, one_line(error)
    if frames:
        file, line = (own or frames)[-1].filename, (own or frames)[-1].lineno
    if isinstance(error, SyntaxError):
        file, line, message = error.filename or file, error.lineno, error.msg
    kind = type(error).__name__
    where = f" ({file}, line {line})" if file and line else ""
    return f"{kind}: {message}{where}." if message != kind else f"{kind}{where}."


def _package_root(module: str) -> str:
    """The folder of a module's top-level package, or the file of a top-level module."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    locations = [*spec.submodule_search_locations] if spec and spec.submodule_search_locations else []
    return locations[0] if locations else str(spec and spec.origin)


def _install_hint(plugin: Plugin, package: str) -> str:
    """The pip command for a missing package, with an extra of the plugin's distribution if one requires it."""
    distribution = plugin.origin.rpartition(" ")[0]
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        if extra and re.split(r"[^\w.-]", requirement)[0].replace("-", "_").lower() == package.lower():
            if distribution == "densevit":  # not in a package index
                return f"Try `pip install -e '.[{extra[1]}]'` in densevit's clone."
            return f"Try `pip install '{distribution}[{extra[1]}]'`."
    return f"Try `pip install {package}`."


def _noun(group: str) -> str:
    """The interface in messages: "backbone", "checkpoint layout"."""
    return _OTHERS.get(group) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", INTERFACES.get(group, group)).lower()


def _described(plugin: Plugin) -> str:
    where = "" if plugin.name == plugin.value else f" ({plugin.value}, from {plugin.origin})"
    return f"The {plugin.noun}{where}"


def _unknown(group: str, name: str, known: Mapping[str, Plugin]) -> str:
    noun = _noun(group)
    broken = "".join(f" {problem}" for problem in scan().broken)
    none = "" if known else f" No {noun} is installed."
    module, dot, attribute = name.rpartition(".")
    of_module = f" For the class {attribute} of the module {module} write {module}:{attribute}." if dot else ""
    return f"There is no {noun} {name!r}.{of_module}{did_you_mean(name, known)}{none}{broken}"


def _check_group(group: str) -> None:
    if group not in GROUPS:
        raise PluginError(f"There is no plugin group {group!r}.{did_you_mean(group, GROUPS)}")
