"""What a new distribution may be called: one word is its folder, its package, its plugin's name and its config's."""

import importlib.metadata
import importlib.util
import keyword
import re
from pathlib import Path

from densevit import registry
from densevit.errors import PluginError

_FOLDERS = ("build", "configs", "dist", "tests")  # what stands beside the package


def check_name(group: str, name: str) -> str:
    """The name as Python and pip take it, hyphens as underscores. group: the plugin's, "backbones" or "heads".

    Raises PluginError where it is no name, or is that of an installed plugin, module or distribution.
    """
    package = name.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?", package):
        raise PluginError(
            f"{name!r} cannot be a package's name: that begins with a letter, goes on in letters, digits, '_' or '-', "
            "and ends in a letter or a digit, as my_net does."
        )
    if keyword.iskeyword(package):
        raise PluginError(f"{name!r} is a word of Python's own and cannot be imported. Choose another name.")
    if package in _FOLDERS:
        raise PluginError(f"{name!r} is the name of a folder beside the package. Choose another name.")
    plugin = registry.find(group).get(package)
    if plugin is not None:
        raise PluginError(f"There is a {plugin.noun} already, from {plugin.origin}. Choose another name.")
    module = _module(package)
    if module:
        raise PluginError(f"{name!r} is the name of a module that is installed ({module}). Choose another name.")
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return package
    raise PluginError(
        f"{name!r} is the name of an installed distribution (version {version}), which pip would take away for the new "
        "one. Choose another name."
    )


def class_name(package: str) -> str:
    """my_net as MyNet; what is written in capitals already stays."""
    return "".join(word[:1].upper() + word[1:] for word in package.split("_"))


def _module(package: str) -> str:
    """Where a module of that name is found; empty where an import would fail. Folders without Python do not count."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module that is loaded without a spec, as __main__ is
        return "loaded without a file"
    if spec is None:
        return ""
    if spec.origin is not None:
        return spec.origin
    places = {Path(place).resolve() for place in spec.submodule_search_locations or ()}
    return ", ".join(sorted(str(place) for place in places - {Path(package).resolve()}))
