"""The inputs of a run, read and checked before the slow import of Lightning."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from densevit import config as configs
from densevit import registry
from densevit.config import Config
from densevit.data.data_builder import build_data
from densevit.data.data_splits import DataSplits
from densevit.data.split_overlap import check_overlap
from densevit.model import DenseModel
from densevit.training.loop.data_checks import check_needs
from densevit.training.run.config_checks import check_frozen, kinds_of_heads
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.resolving import read_files

if TYPE_CHECKING:  # it imports Lightning
    from densevit.training.run.resuming import RunCheckpoint


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """The inputs of a run, without its model.

    folder: the run folder; None: the next free runs/NAME. resumed: whether a run continues in its folder. checkpoint:
    the checkpoint to start from; None: from step 0. changed: config keys that differ from the checkpoint's. pretrained:
    pretrained weights files by source; `Plan.of` clears them. model: the model to train; None: the config's is built.
    """

    config: Config
    folder: Path | None
    name: str
    resumed: bool
    checkpoint: "RunCheckpoint | None"
    changed: dict[str, str]
    data: DataSplits
    pretrained: dict[str, Checkpoint]
    model: DenseModel | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        folder: Path | None = None,
        name: str = "run",
        checkpoint: "RunCheckpoint | None" = None,
        resumed: bool = False,
    ) -> "TrainingInputs":
        """Reads and checks the inputs. Raises ConfigError, PluginError, DataError or WeightsError."""
        configs.check_plugins(config)
        if checkpoint is None:
            check_frozen(config)
        return cls(
            config=config,
            folder=folder,
            name=name,
            resumed=resumed,
            checkpoint=checkpoint,
            changed={} if checkpoint is None else checkpoint.changes_of(config),
            data=_data(config),
            pretrained=read_files(config) if checkpoint is None else {},
        )


def _data(config: Config) -> DataSplits:
    """Builds the data. Checks for the labels that method and heads need."""
    data = build_data(config)
    needs_labels = registry.load("methods", config.method.name).needs_labels
    data.check_splits(needs_labels or bool(config.heads))
    if needs_labels:
        check_needs(kinds_of_heads(config), data)
    check_overlap(data)
    return data
