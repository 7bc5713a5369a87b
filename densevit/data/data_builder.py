"""Builds data from a config, its section `data`, or data sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densevit.config import Config, DataSection, section
from densevit.data.data_splits import DataSplits
from densevit.interfaces import Dataset, Size

DataSource = Config | DataSection | Mapping[str, Any] | str | Path
"""A config; or its section `data`, as a mapping, or a section's file such as configs/data/coco.yaml."""


def build_data(
    data: DataSource,
    size_divisor: int | Size = 32,
    seed: int | None = None,
    train: Dataset | None = None,
    val: Dataset | None = None,
) -> DataSplits:
    """Returns the data of a config or of its section `data`. Each split is built on first use.

    size_divisor: batches are padded to multiples of it, or at least to a size (h, w). seed: the seed of order and
    augmentation; None: the config's, or else 0. train, val: data sets that replace the section's splits; its `name`
    may then be left out. Raises ConfigError and PluginError for a wrong option.

    Example:
        >>> data = densevit.build_data({"name": "scenes", "image_size": 64})
        >>> [*data.classes], len(data.val)
        (['detection', 'segmentation', 'panoptic'], 500)
    """
    datasets = {f"data.{key}": dataset for key, dataset in (("train", train), ("val", val)) if dataset is not None}
    values, config_seed = (data.data, data.seed) if isinstance(data, Config) else (data, 0)
    if datasets or not isinstance(values, DataSection):
        values = section("data", values.model_dump() if isinstance(values, DataSection) else values, "data", datasets)
    return DataSplits(values, config_seed if seed is None else seed, size_divisor)
