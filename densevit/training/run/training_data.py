"""The data of a run: built, with the classes of its weights where it adds classes to them, and checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from densevit import registry
from densevit.config import Config
from densevit.config.data_schema import NEW_CLASSES
from densevit.data.data_builder import build_data
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.partly_labelled import PartlyLabelled
from densevit.data.split_overlap import check_overlap
from densevit.errors import ConfigError
from densevit.interfaces import Class
from densevit.model.model_factory import tasks_of
from densevit.training.run.config_checks import check_labels
from densevit.training.run.folder import kept
from densevit.weights import model_file
from densevit.weights.checkpoint_io import read


def checked_data(config: Config, run: Path | None = None) -> DataSplits:
    """The data of a run. Raises ConfigError, PluginError, DataError or WeightsError for data that it cannot use. run:
    the folder of the resumed run."""
    data, needs_labels = _built(config, run), registry.load("methods", config.method.name).needs_labels
    data.sort_classes()
    data.check_splits(needs_labels or bool(config.heads))
    if needs_labels:
        check_labels(config, data)
    check_overlap(data)
    return data


def _built(config: Config, run: Path | None) -> DataSplits:
    """The data of a config. With `data.labelled_classes=new` it has the classes of the model in `weights`, and then
    those that this model lacks, which are the labelled ones.

    Raises ConfigError without such classes.
    """
    data = build_data(config)
    if config.data.labelled_classes != NEW_CLASSES:
        return data
    old, names = _classes_of(config, run), set[str]()
    data.sort_classes()
    for task, classes in old.items():
        names |= {c.name for c in data.classes.get(task, ())} - {c.name for c in classes}
    if not names:
        raise ConfigError(
            f"data.labelled_classes is new, but the data has no class that weights={config.weights} lack. Fix: list "
            "the labelled classes, data.labelled_classes=[cat, dog]."
        )
    train, val = (PartlyLabelled(x, sorted(names), "data.labelled_classes", old) for x in (data.train, data.val))
    data.use_split("train", train)
    data.use_split("val", val)
    return data


def _classes_of(config: Config, run: Path | None) -> Mapping[str, Sequence[Class]]:
    """The classes of the model in `weights` by task, of the heads that the config has too."""
    checkpoint = None if config.weights is None else read(kept(config.weights, run))
    if checkpoint is None or checkpoint.header.get("format") != "densevit":
        raise ConfigError(
            f"data.labelled_classes is new: the classes that a trained model lacks, but weights is {config.weights}. "
            "Fix: weights=RUN, a run of densevit or a checkpoint after `densevit convert`."
        )
    classes = model_file.described(checkpoint.header, checkpoint.source, trust=True).classes
    return {task: classes[name] for name, task in tasks_of(config).items() if classes.get(name)}
