"""Registry of plugins: finds them in the entry points of installed distributions, and loads them on demand.

Built-in plugins are entry points as well. Finding plugins imports nothing; loading one imports its module alone, so a
broken plugin affects only configs that use it.
"""

from densevit.registry.creating import check_options, construct, create
from densevit.registry.docstrings import first_line
from densevit.registry.finding import Scan, find, scan
from densevit.registry.groups import GROUPS, Plugin
from densevit.registry.loading import import_object, load, load_command, public_name

__all__ = [
    "GROUPS",
    "Plugin",
    "Scan",
    "check_options",
    "construct",
    "create",
    "find",
    "first_line",
    "import_object",
    "list_backbones",
    "list_checkpoints",
    "list_datasets",
    "list_evaluators",
    "list_heads",
    "list_methods",
    "list_necks",
    "list_optimizers",
    "list_targets",
    "list_transforms",
    "load",
    "load_command",
    "public_name",
    "scan",
]


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


def list_optimizers() -> list[str]:
    """Names of all installed optimisers."""
    return list(find("optimizers"))


def list_targets() -> list[str]:
    """The target keys that have an installed type."""
    return list(find("targets"))


def list_transforms() -> list[str]:
    """Names of all installed sets of transforms."""
    return list(find("transforms"))
