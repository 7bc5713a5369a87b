"""Checks of splits: whether heads can learn from the data, and the formats."""

from collections.abc import Mapping
from inspect import signature

from densevit import registry
from densevit.config import DataSection
from densevit.config.config_layers import at, keys
from densevit.data.data_splits import DataSplits
from densevit.data.datasets.resized import Resized
from densevit.errors import ConfigError, DataError, listed
from densevit.interfaces import Dataset, Head, Method
from densevit.model import DenseModel, InferenceModel
from densevit.model.batch_checks import check_partial_labels


def check_splits(data: DataSplits, model: DenseModel, method: Method | None) -> None:
    """Checks images and classes of the splits, and whether the model's heads can learn from the labels.

    method: None in an evaluation, which uses `val` only.
    """
    for dataset in (data.val,) if method is None else (data.train, data.val):
        check_channels(dataset, model)
        check_classes(dataset, model)
    if method is not None and method.needs_labels:
        check_required_targets(
            {f"heads.{name} ({model.plugin_name(name)})": head for name, head in model.heads.items()}, data
        )
        check_learnable(data, model)


def check_learnable(data: DataSplits, model: DenseModel) -> None:
    """Raises ConfigError if the `check` of a head fails on the training data."""
    for name, head in model.heads.items():
        try:
            resized = head.canonical_focal is not None  # focal lengths are in pixels of the resized images
            head.check(Resized(data.train, data.val_transform) if resized else data.train)
        except ConfigError as error:
            keys = ", ".join(_keys_set_to_false("metric", data.section)) or "metric"
            off = "" if data.train.metric else f" ({keys}: false)"
            where = f"heads.{name} ({model.plugin_name(name)})"
            raise ConfigError(f"{where} {error} The data set is {data.section.name!r}{off}.") from None


def check_required_targets(heads: Mapping[str, Head | type[Head]], data: DataSplits) -> None:
    """Raises ConfigError if a head needs labels that the data lacks. heads: the heads by name, for messages."""
    for head, model_head in heads.items():
        if "labelled" in data.provides:
            check_partial_labels(head, model_head)
        lacking = [key for key in model_head.required_targets if key not in data.provides]
        if lacking:
            labelled = f"{', '.join(data.provides)} only" if data.provides else "nothing"
            off = [name for key in lacking for name in _keys_set_to_false(key, data.section)]
            raise ConfigError(
                f"{head} needs {', '.join(lacking)}, but the data set {data.section.name!r} labels {labelled}. Fix: "
                f"{'set ' + ', '.join(f'{name}=true' for name in off) if off else 'use another head or data set'}."
            )


def check_classes(dataset: Dataset, model: DenseModel) -> None:
    """Raises DataError if a split's classes, or their order, differ from the classes that a head was trained on."""
    for head, trained in model.classes.items():
        model_head = model.heads[head]
        expected, actual = [c.name for c in trained], [c.name for c in model_head.classes_from(dataset)]
        if expected != actual:
            shown = [listed(names, 8, " ... ({} in all)") or "none" for names in (actual, expected)]
            raise DataError(
                f"The data's classes for {model_head.task} differ from the classes of head {head!r} in name or order."
                f" Found: {shown[0]}. Expected: {shown[1]}."
            )


def check_channels(dataset: Dataset, model: InferenceModel) -> None:
    """Raises DataError if the images of a data set have other channels than the model, another type, as read or in
    their files, or another range."""
    actual, expected = dataset.channels, model.channels
    first, second = (
        (channels.names, channels.dtype, channels.stored or channels.dtype) for channels in (actual, expected)
    )
    if first != second or actual.range not in ((), expected.range):
        raise DataError(
            f"The images of the data have the channels {actual}; the model was trained on {expected}. Fix: set "
            "data.channels, data.range and data.nodata as in its training, or train a model on these images."
        )


def _keys_set_to_false(key: str, section: DataSection) -> list[str]:
    """The dotted names of an option of the data where its value is false: data.metric, data.sets.NAME.metric."""
    parameters = signature(registry.load("datasets", section.name)).parameters
    options = {name: x.default for name, x in parameters.items()} | section.options
    return [".".join(("data", *path)) for path in keys(options) if path[-1] == key and at(options, path) is False]
