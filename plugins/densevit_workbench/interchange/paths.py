"""Checks the paths of a conversion's source and result, without slow imports."""

from pathlib import Path

from densevit.atomic_io import check_writable
from densevit.data.neighbours import nearest_neighbour
from densevit.errors import ConfigError, DataError
from densevit.paths import check_unpacked


def check_paths(source: Path, out: Path) -> Path:
    """Returns the folder to write to, which is renamed to `out` when it is complete.

    Raises DataError if the source does not exist, ConfigError if `out` does.
    """
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.{nearest_neighbour(source)}")
    check_unpacked(source)
    if out.exists():
        raise ConfigError(f"{out} exists. Fix: remove it, or name another folder.")
    check_writable(out.absolute().parent, out)
    partial = out.with_name(f"{out.name}.partial")
    if partial.exists():
        raise _reserved(partial)
    return partial


def reserve(partial: Path) -> None:
    """Creates the folder. Raises ConfigError if another process has just done so."""
    try:
        partial.mkdir()
    except FileExistsError:
        raise _reserved(partial) from None


def _reserved(partial: Path) -> ConfigError:
    return ConfigError(
        f"{partial} exists. Another process is writing it, or an interrupted one has left it. Fix: in the second case "
        "remove it."
    )
