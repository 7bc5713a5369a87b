"""Builds one split of a data set, by its plugin name or from a config's section `data`."""

from typing import Any

from densevit import registry
from densevit.config import DataSection, data_options
from densevit.config.data_schema import NEW_CLASSES
from densevit.data.datasets.file_checks import check_files
from densevit.data.datasets.partly_labelled import PartlyLabelled
from densevit.errors import ConfigError, warn_once
from densevit.interfaces import Dataset
from densevit.registry.plugin_options import takes


def create_dataset(name: str, split: str = "train", **options: Any) -> Dataset:
    """Builds one split of a data set by its plugin name, and checks its files. Warns of images that were divided
    into train and val.

    Example:
        >>> densevit.create_dataset("scenes", split="val", image_size=64)[0]["image"].shape
        torch.Size([3, 64, 64])
    """
    dataset: Dataset = registry.create("datasets", name, split, options=options, where=f"dataset {name!r}")
    check_files(dataset)
    if dataset.division:
        warn_once(dataset.division)
    return dataset


def build_split(section: DataSection, split: str) -> Dataset:
    """Builds one split of a config's data section, and checks its files. Raises as `unchecked_split`, and DataError for
    wrong files."""
    dataset = unchecked_split(section, split)
    check_files(dataset, section.on_error)
    return dataset


def unchecked_split(section: DataSection, split: str) -> Dataset:
    """Builds one split of a config's data section. Raises PluginError for a wrong option, ConfigError for channel
    options that a data set with fixed channels contradicts, and DataError for wrong annotations."""
    part, config_channels = section.train if split == "train" else section.val, section.given_channels
    name, arguments, options, where = (
        (section.name, (split,), data_options(section), "data")
        if part is None
        else (part.name, (), part.options, f"data.{'train' if split == 'train' else 'val'}")  # with all arguments
    )
    offered = {"on_error": section.on_error, "channels": config_channels}
    dataset: Dataset = registry.create("datasets", name, *arguments, options=options, where=where, offered=offered)
    channels = dataset.channels
    same = config_channels.is_rgb or (
        config_channels.names == channels.names
        and config_channels.range in ((), channels.range)
        and config_channels.nodata in (None, channels.nodata)
        and config_channels.display in ((), channels.display)
    )
    if not same and not takes(registry.load("datasets", name), "channels"):
        raise ConfigError(
            f"data.channels, range, nodata or display: the data set {name!r} has channels of its own ({channels}). "
            "Fix: leave them out."
        )
    names = section.labelled_classes
    is_partly = names and names != NEW_CLASSES  # a run adds the classes of its weights
    return PartlyLabelled(dataset, names, "data.labelled_classes") if is_partly else dataset
