"""The inputs of a run, read and checked before the slow import of Lightning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit import config as configs
from densevit.atomic_io import check_writable
from densevit.config import Config, Overrides
from densevit.config.yaml_io import run_name
from densevit.data.data_splits import DataSplits
from densevit.errors import ConfigError
from densevit.model import DenseModel
from densevit.paths import user_path
from densevit.training.run.config_checks import check_frozen
from densevit.training.run.folder import check_wanted, kept
from densevit.training.run.training_data import checked_data
from densevit.weights.checkpoint import Checkpoint
from densevit.weights.resolving import read_files

if TYPE_CHECKING:  # it imports Lightning
    from densevit.training.run.resuming import RunCheckpoint


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """The inputs of a run, without its model.

    folder: the run folder; None: the next free runs/NAME. resumed: whether a run continues in its folder. checkpoint:
    the checkpoint to start from; None: from step 0. changed: config keys that differ from the checkpoint's. pretrained:
    pretrained weights files by source; `Plan.of` clears them. run: the folder of the resumed run. model: the model to
    train; None: the config's is built.
    """

    config: Config
    folder: Path | None
    name: str
    resumed: bool
    checkpoint: "RunCheckpoint | None"
    changed: dict[str, str]
    data: DataSplits
    pretrained: dict[str, Checkpoint]
    run: Path | None
    model: DenseModel | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        folder: Path | None = None,
        name: str = "run",
        checkpoint: "RunCheckpoint | None" = None,
        resumed: bool = False,
        run: Path | None = None,
    ) -> "TrainingInputs":
        """Reads and checks the inputs. Raises ConfigError, PluginError, DataError or WeightsError."""
        configs.check_plugins(config)
        if checkpoint is None:
            check_frozen(config)
        data = checked_data(config, run)
        config = config.model_copy(update={"data": data.section})  # with the only size of images that keep their size
        return cls(
            config=config,
            folder=folder,
            name=name,
            resumed=resumed,
            checkpoint=checkpoint,
            changed={} if checkpoint is None else checkpoint.changes_of(config),
            data=data,
            pretrained=read_files(config, lambda source: kept(source, run)) if checkpoint is None else {},
            run=run,
        )


def read_inputs(
    config: str | Path | Mapping[str, Any] | Config | None,
    overrides: Overrides,
    resume: str | Path | None,
    run_dir: str | Path | None,
    name: str | None = None,
) -> TrainingInputs:
    """Reads the inputs from the arguments of `fit`."""
    if (config is None) == (resume is None):
        raise ConfigError("fit needs a config or the folder of a run to resume, and not both.")
    path = None if run_dir is None else user_path(run_dir)
    if resume is not None:
        from densevit.training.run.resuming import RunCheckpoint, check_newest, run_of, without_checkpoint

        resumed = user_path(resume)
        run = run_of(resumed)
        if path is not None:
            check_wanted(path)
        else:
            check_newest(resumed)
            if run.is_dir():
                check_writable(
                    run, fix=f"Fix: copy the run to a writable folder, or continue with weights={run} in a new run."
                )
        checkpoint = None if without_checkpoint(resumed) else RunCheckpoint(resumed)
        config = configs.load(run / "config.yaml", overrides)
        return TrainingInputs.of(config, path or run, run.name, checkpoint, resumed=path is None, run=run)
    if isinstance(config, str | Path):
        name, config = name or run_name(config), configs.load(config, overrides)
    elif isinstance(config, Config):
        config = configs.with_overrides(config, overrides)
    else:
        config = configs.from_mapping(config or {}, "fit", overrides)
    check_wanted(path)
    return TrainingInputs.of(config, path, name or "run")
