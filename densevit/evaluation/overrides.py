"""Overrides of an evaluation: they keep the model, and other data are read and resized as in its training."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.config import DataSection, Overrides, check_evaluation_overrides
from densevit.config.layer_reading import data_root, folder_options
from densevit.config.yaml_io import find_file, shipped_configs
from densevit.errors import ConfigError, DensevitError, warn_user
from densevit.model import InferenceModel
from densevit.paths import user_path
from densevit.registry.plugin_options import takes


def evaluation_overrides(
    overrides: Overrides, trained: DataSection | None, model: InferenceModel | None = None
) -> list[Any]:
    """Checked overrides for data other than a model's training data, `trained`.

    A folder as `data` is only the root if the training data have one: the evaluated classes and masks are theirs
    (`folder_options`), but the unit of its files is not, unless it is the folder of the training data. Images of other
    folders and of shipped sections, whose sizes are those of other models, are resized as in training, unless the
    overrides say otherwise; the sizes of a mapping or a file of the user are meant. If the training data have no root,
    as a `Dataset`, or are unknown, the heads of the model decide how a folder is read (`_read_for`).
    """
    check_evaluation_overrides(overrides)
    changes = [*(overrides.items() if isinstance(overrides, Mapping) else overrides)]
    names = [change[0] if isinstance(change, tuple) else change.partition("=")[0] for change in changes]
    data = dict(zip(names, changes, strict=True)).get("data")
    folder = data.partition("=")[2] if isinstance(data, str) else data and data[1]
    if not isinstance(folder, str | Path):
        return changes
    root, sections = data_root(str(folder)), {".".join(name.split(".")[:2]) for name in names}
    former = None if trained is None else trained.options.get("root")
    reading: dict[str, Any] = {}
    if root is not None and former is None and model is not None and "data.name" not in sections:
        reading = _read_for(model, root)
    if trained is None and not reading:
        return changes
    if root is None:
        with suppress(ConfigError):  # there is no such file: reported where the section is read
            if find_file(str(folder), section="data").resolve() not in {
                x.resolve() for x in shipped_configs().values()
            }:
                return changes
    values = {} if trained is None else trained.model_dump()
    implied = reading | {key: values[key] for key in ("image_size", "transforms") if key in values}
    if root is not None and former is not None:
        implied = folder_options(root, values)
        if "scale" in values and user_path(root).resolve() != user_path(str(former)).resolve():
            implied["scale"] = None  # the unit of the former folder's files
    if reading or (root is not None and former is not None):
        changes = [change for name, change in zip(names, changes, strict=True) if name != "data"]
    return [*changes, *((f"data.{key}", x) for key, x in implied.items() if f"data.{key}" not in sections)]


def _read_for(model: InferenceModel, root: str) -> dict[str, Any]:
    """The keys of `data` for a folder of the labels that all heads need, such as label maps, with a warning; {} for
    boxes, which the section `data/folder` reads. Classes that the folder does not name are the model's.

    The data set is the first one whose class states that it provides these labels.
    """
    needed = {key for head in model.heads.values() for key in head.required_targets}
    for name in registry.find("datasets") if needed and user_path(root).is_dir() else ():
        with suppress(DensevitError):  # a plugin that cannot be imported, or files that it cannot read
            kind = registry.load("datasets", name)
            provides = getattr(kind, "provides", None)
            if not (isinstance(provides, tuple) and needed <= {*provides} and hasattr(kind, "recognise")):
                continue
            reading: dict[str, Any] = {"name": name, "root": root}
            if takes(kind, "classes") and kind.recognise(user_path(root)) != {}:
                reading["classes"] = [c.name for c in next(filter(None, model.classes.values()), ())]
            classes = ", data.classes=the model's, in the order of label values" if "classes" in reading else ""
            warn_user(
                f"{root} is read as data.name={name} data.root={root}{classes}, by the labels that the model predicts. "
                "If this is wrong, set these keys in place of data."
            )
            return reading
    return {}
