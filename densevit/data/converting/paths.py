"""Checks the source and the result of a conversion, without slow imports."""

from pathlib import Path

from densevit.data.neighbours import nearest_neighbour
from densevit.errors import ConfigError, DataError


def check_paths(source: Path, out: Path) -> Path:
    """Returns the folder to write to, which becomes `out` when it is complete.

    Raises DataError for a source that does not exist, ConfigError for a result that does.
    """
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.{nearest_neighbour(source)}")
    if out.exists():
        raise ConfigError(f"{out} exists. Fix: remove it, or name another folder.")
    partial = out.with_name(f"{out.name}.partial")
    if partial.exists():
        raise ConfigError(f"{partial} exists. An interrupted conversion has left it. Fix: remove it.")
    return partial
