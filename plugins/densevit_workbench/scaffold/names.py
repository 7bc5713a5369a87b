"""Valid names of a new distribution: one name for its folder, package, plugin and config."""

import importlib.metadata
import importlib.util
import keyword
import re
from collections.abc import Iterable
from pathlib import Path

from densevit import registry
from densevit.errors import PluginError

_FOLDERS = ("build", "configs", "dist", "tests")  # beside the package


def check_name(groups: Iterable[str], name: str) -> str:
    """The name as a Python package: hyphens become underscores. groups: the groups of its plugins, such as "heads".

    Raises PluginError if the name is not valid, or if an installed plugin, module or distribution has it.
    """
    package = name.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?", package):
        raise PluginError(
            f"{name!r} cannot be a package's name. Use letters, digits, '_' and '-', with a letter first and a "
            "letter or digit last, as in my_net."
        )
    if keyword.iskeyword(package):
        raise PluginError(f"{name!r} is a Python keyword and cannot be imported. Choose another name.")
    if package in _FOLDERS:
        raise PluginError(f"{name!r} is the name of a folder beside the package. Choose another name.")
    for group in groups:
        plugin = registry.find(group).get(package)
        if plugin is not None:
            raise PluginError(f"There is already a {plugin.noun}, from {plugin.origin}. Choose another name.")
        if group == "targets" and _is_general(package):
            raise PluginError(f"{name!r} is a key of the targets of every image. Choose another name.")
    module = _module(package)
    if module:
        raise PluginError(f"{name!r} is the name of an installed module ({module}). Choose another name.")
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return package
    raise PluginError(
        f"{name!r} is the name of an installed distribution (version {version}), which pip would replace. "
        "Choose another name."
    )


def _is_general(key: str) -> bool:
    from densevit.targets.types import GENERAL_KEYS  # imports torch

    return key in GENERAL_KEYS


def class_name(package: str) -> str:
    """Converts my_net to MyNet; keeps capitals."""
    return "".join(word[:1].upper() + word[1:] for word in package.split("_"))


def _module(package: str) -> str:
    """The location of a module with this name; empty if an import would fail. Ignores the folder `package` itself."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        return "loaded without a file"
    if spec is None:
        return ""
    if spec.origin is not None:
        return spec.origin
    places = {Path(place).resolve() for place in spec.submodule_search_locations or ()}
    return ", ".join(sorted(str(place) for place in places - {Path(package).resolve()}))
