"""Reads the folders that `densevit predict` writes, and their Parquet tables: `images.parquet`, and `objects.parquet`
of each head. A table is a folder of part files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit.data.io.text_files import read_json
from densevit.errors import DataError, DensevitError, one_line

if TYPE_CHECKING:
    import pyarrow

IMAGES, OBJECTS = "images.parquet", "objects.parquet"
PREDICTED, FAILED = "predicted", "failed"  # states of an image
BOX = ("x", "y", "width", "height")


def object_files(folder: Path, head: str) -> list[Path]:
    """Returns the files of a head's objects in a folder of predictions: the part files of objects.parquet, or else
    predictions.json; none without objects."""
    parents = (folder / head, folder)
    tables = (part_files(parent / OBJECTS) for parent in parents)
    jsons = ([parent / "predictions.json"] for parent in parents if (parent / "predictions.json").is_file())
    return next(filter(None, (*tables, *jsons)), [])


def check_pyarrow(source: str) -> None:
    """Raises DensevitError if pyarrow is not installed. source: what needs it, for the message."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise DensevitError(
            f"{source} needs the package pyarrow, which is not installed: pip install pyarrow."
        ) from None


def part_files(table: Path) -> list[Path]:
    """Returns the part files of a table in the order in which they were written; none if there is no table."""
    return sorted(table.glob("[0-9]*.parquet"))


def read_part(file: Path) -> "pyarrow.Table":
    """Reads a part file of a table. Raises DataError if it cannot be read."""
    check_pyarrow(f"{file}:")
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read as Parquet: {one_line(error)}.") from None


def listed_images(folder: Path) -> list[dict[str, Any]]:
    """Returns the predicted images in a folder: the entries of images.json, or the rows of images.parquet, which also
    have the predictions per image. Raises DataError if there is neither, for example if parts are not joined."""
    if (folder / "parts").is_dir() and not any((folder / name).exists() for name in (IMAGES, "images.json")):
        raise DataError(f"{folder}: its parts are not joined. Fix: densevit predictions join {folder}.")
    rows = [row for file in part_files(folder / IMAGES) for row in read_part(file).to_pylist()]
    if not rows:
        return list(read_json(folder / "images.json"))
    return [row for row in rows if row.pop("state") == PREDICTED]


def read_entries(file: Path, images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The objects in a file of `object_files`, in COCO's results format. images: the objects' images, from
    `listed_images`."""
    return object_entries(read_part(file), images) if file.suffix == ".parquet" else list(read_json(file))


def object_entries(rows: "pyarrow.Table", images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Converts rows of objects to COCO's results format. images: the objects' images, from `listed_images`."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in images}
    entries = []
    for row in rows.to_pylist():
        entry = {name: value for name, value in row.items() if value is not None and name not in ("class", *BOX)}
        if "x" in row:
            entry["bbox"] = [row[side] for side in BOX]
        if "segmentation" in row:
            entry["segmentation"] = {"size": sizes[row["image_id"]], "counts": row["segmentation"]}
        entries.append(entry)
    return entries
