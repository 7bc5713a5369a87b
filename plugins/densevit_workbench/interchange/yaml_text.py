"""Reads YAML files that other programs write."""

from pathlib import Path
from typing import Any

import yaml

from densevit.data.io.text_files import read_text
from densevit.errors import DataError, one_line


def read_yaml_as_text(path: Path) -> Any:
    """Returns a YAML file's mappings and lists with all scalars as text, as they are written: `no`, `010` and `12:30`
    are names in the files of other programs. Raises DataError if it cannot be read."""
    text = read_text(path)
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid YAML: {one_line(error)}.") from None
