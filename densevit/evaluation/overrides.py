"""Overrides of an evaluation: they keep the model, and other data are read and resized as in its training."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from densevit.config import DataSection, Overrides, check_evaluation_overrides
from densevit.config.layer_reading import data_root, folder_options
from densevit.config.yaml_io import find_file, shipped_configs
from densevit.errors import ConfigError
from densevit.paths import user_path


def evaluation_overrides(overrides: Overrides, trained: DataSection | None) -> list[Any]:
    """Checked overrides for data other than a model's training data.

    A folder as `data` is only the root if the training data have one: the evaluated classes and masks are theirs
    (`folder_options`), but the unit of its files is not, unless it is the folder of the training data. Images of other
    folders and of shipped sections, whose sizes are those of other models, are resized as in training, unless the
    overrides say otherwise; the sizes of a mapping or a file of the user are meant.
    """
    check_evaluation_overrides(overrides)
    changes = [*(overrides.items() if isinstance(overrides, Mapping) else overrides)]
    names = [change[0] if isinstance(change, tuple) else change.partition("=")[0] for change in changes]
    data = dict(zip(names, changes, strict=True)).get("data")
    folder = data.partition("=")[2] if isinstance(data, str) else data and data[1]
    if trained is None or not isinstance(folder, str | Path):
        return changes
    root, sections = data_root(str(folder)), {".".join(name.split(".")[:2]) for name in names}
    if root is None:
        with suppress(ConfigError):  # there is no such file: reported where the section is read
            if find_file(str(folder), section="data").resolve() not in {
                x.resolve() for x in shipped_configs().values()
            }:
                return changes
    implied = trained.model_dump(include={"image_size", "transforms"})
    if root is not None and "root" in trained.options:
        implied = folder_options(root, trained.model_dump())
        former = user_path(str(trained.options["root"]))
        if "scale" in trained.options and user_path(root).resolve() != former.resolve():
            implied["scale"] = None  # the unit of the former folder's files
        changes = [change for name, change in zip(names, changes, strict=True) if name != "data"]
    return [*changes, *((f"data.{key}", x) for key, x in implied.items() if f"data.{key}" not in sections)]
