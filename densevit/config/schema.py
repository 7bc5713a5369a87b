"""The config schema: all keys with their types, defaults and meaning. An unknown key is an error.

A plugin's section also holds the plugin's options (`options`), which `check_plugins` checks.
"""

from typing import Annotated

from pydantic import Field

from densevit.config.data_schema import DataSection
from densevit.config.model_schema import ModelSections
from densevit.config.training_schema import OptimSection, TrainerSection
from densevit.config.values import Int, NamedSection, PluginSection


class Config(ModelSections):
    """The config of a run, from `densevit.config.load`."""

    data: Annotated[DataSection, "datasets"]
    """The data set."""
    seed: Annotated[Int, Field(ge=0, lt=2**32)] = 0
    """Seed of weights, data order and augmentation."""
    method: Annotated[NamedSection, "methods"] = PluginSection(name="supervised")
    """The training method: its name, or `{name: ..., options}`."""
    optim: Annotated[OptimSection, "optimizers"] = Field(default_factory=OptimSection)
    """The optimiser."""
    trainer: TrainerSection
    """Budget, hardware, validation, checkpoints and logging."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each overridden key of initial weights (`initial_weights`)."""
        return self._layer.notes

    @property
    def replace_layers(self) -> bool:
        """Whether faster functions replace plain ones in the built model."""
        return self.trainer.replace_layers
