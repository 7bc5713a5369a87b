"""Plugin groups with their interfaces and nouns, and the record of a plugin that is not imported."""

import re
from dataclasses import dataclass

from densevit.errors import PluginError, did_you_mean

INTERFACES = {
    "backbones": "Backbone",
    "necks": "Neck",
    "heads": "Head",
    "datasets": "Dataset",
    "transforms": "Transforms",
    "evaluators": "Evaluator",
    "targets": "TargetType",
    "methods": "Method",
    "checkpoints": "CheckpointLayout",
    "optimizers": "torch.optim.Optimizer",
    "sources": "densevit.weights.sources.Source",
}
"""The base class of each group's plugins, in `densevit.interfaces` or another module."""

# Positional arguments that densevit passes before the user's options.
POSITIONAL_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "backbones": (),
    "necks": ("channels", "strides"),
    "heads": ("channels", "strides", "classes"),
    "datasets": ("split",),
    "transforms": ("image_size",),
    "evaluators": ("classes",),
    "targets": (),
    "methods": ("model",),
    "optimizers": ("params",),
    "probes": ("classes",),
}

# Groups without interface: modules of the command line; names of `densevit.__all__`; classes of the workbench and of
# the probes; functions that give loggers a finished run folder, and that convert predictions for label tools.
_WITHOUT_INTERFACE = {
    **{"commands": "command", "names": "public name", "inspectors": "inspector", "probes": "probe"},
    **{"loggers": "logger", "prelabels": "format of label tools"},
}
_NOUNS = {**_WITHOUT_INTERFACE, "transforms": "set of transforms", "optimizers": "optimiser"}
PLUGIN_GROUPS = (*INTERFACES, *_WITHOUT_INTERFACE)


@dataclass(frozen=True)
class Plugin:
    """A plugin that is not imported. value: "module:Attribute". origin: its distribution, such as "densevit 0.1.0", or
    the config, for a `module:Class`."""

    group: str
    name: str
    value: str
    origin: str = "the config"

    @property
    def noun(self) -> str:
        """The plugin's name in messages: "backbone 'swin'"."""
        return f"{noun_of(self.group)} {self.name!r}"

    def __str__(self) -> str:
        """The beginning of a message: "The backbone 'swin' (densevit_backbones.swin:Swin, from densevit 0.1.0)"."""
        where = "" if self.name == self.value else f" ({self.value}, from {self.origin})"
        return f"The {self.noun}{where}"


def noun_of(group: str) -> str:
    """The interface in messages: "backbone", "checkpoint layout"."""
    return _NOUNS.get(group) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", INTERFACES.get(group, group)).lower()


def check_group(group: str) -> None:
    """Raises PluginError for an unknown group."""
    if group not in PLUGIN_GROUPS:
        raise PluginError(f"There is no plugin group {group!r}.{did_you_mean(group, PLUGIN_GROUPS)}")
