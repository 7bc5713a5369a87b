"""Registry of plugins: finds them among the entry points of installed distributions, and loads them on demand.

Built-in plugins are entry points too. Finding plugins imports nothing; loading a plugin imports only its module, so a
broken plugin affects only configs that use it.
"""

from densevit.registry.creating import check_options, construct, create, option_types
from densevit.registry.docstrings import first_line
from densevit.registry.finding import InstalledPlugins, find, scan
from densevit.registry.groups import PLUGIN_GROUPS, Plugin
from densevit.registry.objects import ObjectName, object_section
from densevit.registry.plugin_loading import import_object, load, load_all, load_command, public_name

__all__ = [
    "PLUGIN_GROUPS",
    "InstalledPlugins",
    "ObjectName",
    "Plugin",
    "check_options",
    "construct",
    "create",
    "find",
    "first_line",
    "import_object",
    "list_plugins",
    "load",
    "load_all",
    "load_command",
    "object_section",
    "option_types",
    "public_name",
    "scan",
]


def list_plugins(group: str) -> list[str]:
    """Names of all installed plugins of a group: `backbones`, `necks`, `heads`, `datasets`, `transforms`, `evaluators`,
    `targets`, `methods`, `optimizers`, `checkpoints`, `inspectors`, `probes` or `sources`.

    Raises PluginError for an unknown group.

    Example:
        >>> "swin" in densevit.list_plugins("backbones")
        True
    """
    return list(find(group))
