"""Identifies the evaluated images by keys of a config's section `data`."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from densevit.config import DataSection, split_options
from densevit.paths import user_path


def evaluated_data(section: Mapping[str, Any]) -> dict[str, str]:
    """The keys of a section `data` that determine the evaluated images, with their values as text.

    The data set, its split and its options, without options of the training split and `masks`, which selects labels.
    Rendered data without files also depends on `image_size`.
    """
    excluded = {*DataSection.model_fields, "masks"}.difference(("channels", "nodata"))
    options = {key: value for key, value in section.items() if key not in excluded}
    options = {key: value for key, value in options.items() if value is not None}
    options = split_options(options, section.get("val_split", "val"))
    if options.get("root"):
        options["root"] = os.path.realpath(user_path(str(options["root"])))
    elif "sets" not in options:
        size = section.get("image_size")
        options["image_size"] = [size, size] if isinstance(size, int) else [*(size or ())]
    keys = {"name": section["name"], "val_split": section.get("val_split", "val"), **options}
    return {key: str(value) for key, value in keys.items()}


def different_keys(sections: Iterable[Mapping[str, str]]) -> list[str]:
    """The keys whose values differ between sections, such as "data.root"."""
    listed = list(sections)
    keys = dict.fromkeys(key for section in listed for key in section)
    return [f"data.{key}" for key in keys if len({section.get(key) for section in listed}) > 1]
