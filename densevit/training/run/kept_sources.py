"""Weights that a run names, kept in its folder, so that a resumed run needs only its folder and its data."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densevit.config import Config
from densevit.config.key_types import parts
from densevit.config.values import SOURCE, PluginSection, with_value
from densevit.paths import user_path
from densevit.registry import option_types
from densevit.weights.resolving import sources_of

_FILES = ("model", "pytorch_model", "config")  # first letters of the files of a run folder, and of the Hub's


def keep(config: Config, folder: Path, run: Path | None) -> None:
    """Links the weights that a config names into a run folder, or copies them if they are on another file system.

    run: the folder of the resumed run, with its kept weights. Published weights are left out.
    """
    for source in (*sources_of(config), *_sources_of_method(config.method).values()):
        path, place = user_path(kept(source, run)), _place(folder, source)
        if place.exists() or not path.exists():
            continue
        partial = place.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.name.startswith(_FILES)]
        for file in filter(Path.is_file, files):
            try:
                os.link(file.resolve(), partial / file.name)
            except OSError:
                shutil.copyfile(file, partial / file.name)
        partial.rename(place)


def kept(source: str, run: Path | None) -> str:
    """The file or folder of weights that a run has kept; without it, the source itself."""
    if run is None or not (place := _place(run, source)).exists():
        return source
    file = place / Path(source).name
    return str(file if file.is_file() else place)


def kept_options(section: PluginSection, run: Path | None) -> dict[str, Any]:
    """The options of a method with the weights that a run has kept, such as its teacher's."""
    options = section.options
    for key, source in _sources_of_method(section).items():
        options = with_value(options, key, kept(source, run))
    return options


def _place(folder: Path, source: str) -> Path:
    return folder / "sources" / hashlib.blake2b(source.encode(), digest_size=4).hexdigest()


def _sources_of_method(section: PluginSection) -> dict[tuple[str, ...], str]:
    """The sources of weights in a method's options by key: ("teacher",), if it is annotated as one, and those of
    sections, ("teacher", "weights")."""
    found: dict[tuple[str, ...], Any] = {}
    annotations = option_types("methods", section.name)
    for name, value in section.options.items():
        if isinstance(value, Mapping):
            found[name, "weights"] = value.get("weights")
        elif SOURCE in parts(annotations.get(name), inside=True):
            found[(name,)] = value
    return {key: source for key, source in found.items() if isinstance(source, str)}
