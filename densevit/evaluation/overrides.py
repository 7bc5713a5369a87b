"""Overrides of an evaluation: they keep the model, and images are resized as in its training."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from densevit.config import DataSection, Overrides, check_evaluation_overrides
from densevit.config.layer_reading import data_root
from densevit.config.yaml_io import find_file, shipped_configs
from densevit.errors import ConfigError


def with_resizing(overrides: Overrides, trained: DataSection | None) -> list[Any]:
    """Checked overrides and, unless they set these, the keys of `resizing_for` their `data`."""
    check_evaluation_overrides(overrides)
    changes = [*(overrides.items() if isinstance(overrides, Mapping) else overrides)]
    values = dict(change if isinstance(change, tuple) else change.partition("=")[::2] for change in changes)
    resizing = resizing_for(values.get("data"), trained)
    return [*changes, *((key, value) for key, value in resizing.items() if key not in values)]


def resizing_for(data: Any, trained: DataSection | None) -> dict[str, Any]:
    """The keys of `data` that resize images of other data as in a model's training, as overrides.

    data: a data set's folder, or a shipped section, whose own sizes are those of other models; for a mapping or a file
    of the user, whose sizes are meant, the result is empty.
    """
    if trained is None or not isinstance(data, str | Path):
        return {}
    if data_root(str(data)) is None:
        with suppress(ConfigError):  # there is no such file: reported where the section is read
            if find_file(str(data), section="data").resolve() not in {x.resolve() for x in shipped_configs().values()}:
                return {}
    return {f"data.{key}": x for key, x in trained.model_dump(include={"image_size", "transforms"}).items()}
