"""Valid names of a new distribution: one name for its folder, package, plugin and config."""

import importlib.util
import keyword
from collections.abc import Iterable

from densevit import registry
from densevit.errors import PluginError


def check_name(groups: Iterable[str], name: str) -> str:
    """Converts a name to a package name: hyphens become underscores. groups: plugin groups, such as "heads".

    Raises PluginError for an invalid name, or the name of an installed plugin or module.
    """
    package = name.replace("-", "_")
    if not (package.isascii() and package.isidentifier() and package.strip("_") == package):
        raise PluginError(
            f"{name!r} cannot be a package's name. Use letters, digits, '_' and '-', with a letter first and a "
            "letter or digit last, as in my_net."
        )
    for plugin in (registry.find(group).get(package) for group in groups):
        if plugin is not None:
            raise PluginError(f"There is already a {plugin.noun}, from {plugin.origin}. Choose another name.")
    spec = importlib.util.find_spec(package)
    if keyword.iskeyword(package) or (spec is not None and spec.origin is not None):  # a folder alone has no origin
        raise PluginError(f"{name!r} is the name of an installed module or a keyword. Choose another name.")
    return package


def class_name(package: str) -> str:
    """Converts my_net to MyNet; keeps capitals."""
    return "".join(word[:1].upper() + word[1:] for word in package.split("_"))
