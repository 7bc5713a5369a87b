"""The options of a backbone on which the maps of its timm model depend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from densevit.errors import PluginError
from densevit_backbones.timm.dry_run import Size

_RESERVED = {"img_size", "dynamic_img_size", "strict_img_size", "in_chans", "features_only", "drop_path_rate"}
# timm would load weights from these sources when the model is built, also if they come from a model file.
_SOURCES = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


@dataclass(frozen=True)
class Request:
    """A model with these options, which are checked as far as they can be without it.

    size: the image size; None: timm's. arguments: further arguments of the model's constructor.
    """

    name: str
    size: Size | None
    drop_path: float | None
    arguments: Mapping[str, Any] = field(hash=False)  # may contain lists, which have no hash; requests compare them

    def __post_init__(self) -> None:
        if taken := sorted(_RESERVED & self.arguments.keys()):
            raise PluginError(f"backbone.model_args: {', '.join(taken)} cannot be set there: this plugin sets it.")
        if taken := sorted(_SOURCES & self.arguments.keys()):
            raise PluginError(
                f"backbone.model_args: {', '.join(taken)} cannot be set there. Fix: set backbone.pretrained for timm's "
                "weights, and backbone.weights for a file."
            )
        if self.name.lower().startswith("local-dir:"):
            raise PluginError(
                f"backbone.model: {self.name!r} is a folder. Fix: name timm's model, and set backbone.weights."
            )
        if self.size is not None and min(self.size) < 1:
            raise PluginError(f"backbone.image_size is {self.size}; heights and widths are 1 or more.")
