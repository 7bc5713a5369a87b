"""Reads YAML files that other programs write."""

from pathlib import Path
from typing import Any

import yaml

from densevit.data.io.text_files import read_text
from densevit.errors import DataError, one_line


def read_yaml_as_text(path: Path) -> Any:
    """Reads a YAML file with all scalars as text: `no`, `010` and `12:30` are names in other programs' files. Raises
    DataError for an unreadable file."""
    text = read_text(path)
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid YAML: {one_line(error)}.") from None
