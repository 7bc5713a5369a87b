"""Resolves the argument of `densevit doctor`: a config, a data section, or a folder in the layout of a data set."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from densevit import config as configs
from densevit import registry
from densevit.config import Config, DataSection
from densevit.config.yaml_io import find_file, read_file
from densevit.data.datasets.coco_dataset import Coco
from densevit.data.datasets.coco_layouts import other_format
from densevit.data.datasets.image_folder import class_folders
from densevit.data.datasets.paired_folders import paired_folders
from densevit.data.datasets.split_folders import spellings
from densevit.errors import ConfigError, DataError, UnreadableFileError
from densevit.paths import nearest_neighbour, user_path
from densevit_workbench.interchange.foreign_exports import check_export


@dataclass(frozen=True)
class ExaminedSource:
    """A data section, and its config, if any.

    name: the user's argument. recognised: the section's keys as text, for the recognised data set of a folder.
    """

    name: str
    section: DataSection
    config: Config | None
    recognised: str = ""


def find_source(source: str | Path, overrides: Sequence[str] = ()) -> ExaminedSource:
    """Resolves a config, a section file, a shipped name of either, a run, or a data set's folder.

    Raises ConfigError for an invalid config, and DataError for a folder that no data set recognises.
    """
    name = str(source)
    folder = user_path(source)
    if folder.is_dir() and not (folder / "config.yaml").is_file():
        return _folder_source(name, folder, overrides)
    if folder.is_absolute() and folder.suffix != ".yaml" and not folder.exists():
        raise ConfigError(f"{name}: there is no such folder.{nearest_neighbour(folder)}")
    if folder.is_file() and other_format(folder, Coco) is not None:  # YOLO's data.yaml
        return _folder_source(name, folder, overrides)
    hint = "" if folder.exists() or not _is_no_config(name) else nearest_neighbour(folder)
    if hint:
        raise ConfigError(f"{name}: there is no folder and no config of this name.{hint}")
    loaded = config_or_data(name, "doctor", overrides)
    if isinstance(loaded, Config):
        configs.check_plugins(loaded)
        return ExaminedSource(name, loaded.data, loaded)
    return ExaminedSource(name, loaded, None)


def config_or_data(path_or_name: str, source: str, overrides: Sequence[str] = ()) -> Config | DataSection:
    """Loads a config, or a data section from a section file such as data/coco. source: the command, for messages."""
    file: Path | None = None
    try:
        file = find_file(path_or_name)
    except ConfigError as error:
        try:
            find_file(path_or_name, section="data")  # a shipped section by its bare name
        except ConfigError:
            raise error from None
    values = {} if file is None else read_file(file)
    if values.keys() & {"data", "heads", "base"}:
        return configs.load(path_or_name, overrides)
    section: DataSection = configs.section("data", path_or_name, source, overrides)
    return section


def _is_no_config(name: str) -> bool:
    """Whether neither a config nor a data section has this name."""
    for section in ("", "data"):
        with suppress(ConfigError):
            find_file(name, section=section)
            return False
    return True


def _folder_source(source_name: str, folder: Path, overrides: Sequence[str]) -> ExaminedSource:
    named = [override.removeprefix("data.name=") for override in overrides if override.startswith("data.name=")]
    name, options = (named[-1], {}) if named else _recognised(folder)
    values = {"name": name, "root": str(folder), **options}
    rest = [override for override in overrides if not override.startswith("data.name=")]
    section: DataSection = configs.section("data", values, str(folder), rest)
    keys = {"name": name, "root": folder} | {key: section.options[key] for key in options}
    text = "" if named else " ".join(shlex.quote(f"data.{key}={flow(value)}") for key, value in keys.items())
    return ExaminedSource(source_name, section, None, text)


def flow(value: Any) -> str:
    """Formats a config value as one line of YAML: the VALUE of an override KEY=VALUE."""
    if isinstance(value, str | Path):
        return str(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=sys.maxsize, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


@runtime_checkable
class SupportsRecognise(Protocol):
    """A data set that `densevit doctor FOLDER` recognises by the folder's layout."""

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Options for reading a folder, without `root`; None if the folder has another layout."""


def _recognised(folder: Path) -> tuple[str, dict[str, Any]]:
    """The first data set whose layout matches a folder, and its options."""
    unreadable = ""
    for name in registry.find("datasets"):
        try:
            kind = registry.load("datasets", name)
            options = kind.recognise(folder) if issubclass(kind, SupportsRecognise) else None
        except UnreadableFileError as error:
            unreadable = f" The layout may not have been seen for this file: {error}"
            continue
        except Exception:  # a broken plugin, or wrong files; another data set may recognise the folder
            continue
        if options is not None:
            return name, options
    check_export(folder)
    for parent in filter(Path.is_dir, (folder, *(folder / name for name in spellings("train")))):
        if maps := paired_folders(parent, class_folders(parent)):
            raise DataError(
                f"{folder} has none of the layouts that data sets recognise; {maps.maps} holds maps of the images in "
                f"{maps.images}. Fix: densevit doctor {folder} {maps.options(folder)}."
            )
    raise DataError(
        f"{folder} has none of the layouts that data sets recognise: COCO (train.json with train/, "
        "annotations/instances_train2017.json, train/_annotations.coco.json, or a single json), YOLO, Pascal VOC, or "
        "images/train with labels/train (label maps of up to 255 values or colours, or depth). Fix: name the data set "
        "and its files, as in `data.name=depth data.images='{split}/*.jpg' data.labels='{split}/*.png'`, or convert "
        f"it: densevit data convert --help.{unreadable}"
    )
