"""Checks the paths of a conversion's source and result, without slow imports."""

from pathlib import Path

from densevit.atomic_io import check_free
from densevit.errors import DataError
from densevit.paths import check_unpacked, nearest_neighbour


def check_paths(source: Path, out: Path) -> None:
    """Raises DataError if the source does not exist, WeightsError if `out` does."""
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.{nearest_neighbour(source, lambda entry: True)}")
    check_unpacked(source)
    check_free(out)
