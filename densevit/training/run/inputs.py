"""The data and the files of weights of a training, read before Lightning is imported, which takes seconds."""

from typing import NamedTuple

from densevit import registry
from densevit.config import Config
from densevit.data.build import Data, build_data
from densevit.training.loop.data_checks import check_needs
from densevit.training.run.config_checks import check_frozen, kinds_of_heads
from densevit.weights.checkpoint_io import Checkpoint
from densevit.weights.pretrained import read_files


class Inputs(NamedTuple):
    """The data, and the checkpoints of the pretrained weights by source, which `Plan.of` removes: they are large."""

    data: Data
    pretrained: dict[str, Checkpoint]

    @classmethod
    def of(cls, config: Config, pretrained: bool = True) -> "Inputs":
        """Raises ConfigError, PluginError, DataError or WeightsError. pretrained: whether weights are read."""
        if pretrained:
            check_frozen(config)
        return cls(_data(config), read_files(config) if pretrained else {})


def _data(config: Config) -> Data:
    """Builds the data. Checks that it has the labels that the method and the heads need."""
    data = build_data(config)
    needs_labels = registry.load("methods", config.method.name).needs_labels
    data.check_splits(needs_labels or bool(config.heads))
    if needs_labels:
        check_needs(kinds_of_heads(config), data)
    return data
