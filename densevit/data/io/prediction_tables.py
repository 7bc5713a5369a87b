"""The Parquet tables of predictions: `images.parquet`, and `objects.parquet` of each head, which are folders of part
files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densevit.data.image_names import names_below
from densevit.errors import DataError, DensevitError, one_line

if TYPE_CHECKING:
    import pyarrow

IMAGES, OBJECTS = "images.parquet", "objects.parquet"
PREDICTED, FAILED = "predicted", "failed"  # states of an image
METADATA = b"densevit"  # of the schema of objects: categories and threshold, as JSON
BOX = ("x", "y", "width", "height")


def check_pyarrow(source: str) -> None:
    """Raises DensevitError if pyarrow is not installed. source: what needs it, for the message."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError:
        raise DensevitError(
            f"{source} needs the package pyarrow, which is not installed: pip install 'densevit[parquet]'."
        ) from None


def is_table(path: Path) -> bool:
    """Whether a path is a folder of Parquet files."""
    return path.suffix == ".parquet" and path.is_dir()


def part_files(table: Path) -> list[Path]:
    """Returns the part files of a table in the order in which they were written; none if there is no table."""
    return sorted(table.glob("[0-9]*.parquet"))


def read_table(table: Path) -> "pyarrow.Table":
    """Reads a table of part files. Raises DataError if it has none or one cannot be read."""
    check_pyarrow(f"{table}:")
    import pyarrow
    from pyarrow import parquet

    files = part_files(table)
    if not files:
        raise DataError(f"{table}: has no part of a table such as 000000.parquet, as `densevit predict` writes it.")
    parts = []
    for file in files:
        try:
            parts.append(parquet.ParquetFile(file).read())
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file} cannot be read as Parquet: {one_line(error)}.") from None
    return pyarrow.concat_tables(parts, promote_options="default")


def read_images(table: Path) -> list[dict[str, Any]]:
    """Returns id, file_name, width and height of the predicted images."""
    columns = ("id", "file_name", "width", "height")
    rows = read_table(table).select([*columns, "state"]).to_pylist()
    return [{name: row[name] for name in columns} for row in rows if row["state"] == PREDICTED]


def read_objects(table: Path, images: list[dict[str, Any]], threshold: float = 0.0) -> list[dict[str, Any]]:
    """Returns the objects with at least this score in COCO's results format. images: those of `read_images`."""
    from pyarrow import compute

    rows = read_table(table)
    if "score" in rows.column_names:
        rows = rows.filter(compute.greater_equal(rows["score"], threshold))
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


def coco_document(table: Path, keep_segmentations: bool = True) -> dict[str, Any]:
    """Returns a table of objects as a document in COCO's format: the objects with at least the threshold of the
    prediction, as in its predictions.csv.

    table: DIR/objects.parquet or DIR/HEAD/objects.parquet, where DIR has images.parquet. Images are named by their
    paths below the folder that has all of them. Raises DataError for other folders.
    """
    folder = next((folder for folder in (table.parent, table.parent.parent) if is_table(folder / IMAGES)), None)
    head = (read_table(table).schema.metadata or {}).get(METADATA)
    if folder is None or head is None:
        raise DataError(
            f"{table}: expected the table of objects {OBJECTS} in a folder of `densevit predict --format parquet`, "
            f"with {IMAGES} beside it or one folder above."
        )
    options = json.loads(head)
    images = read_images(folder / IMAGES)
    names = names_below([image["file_name"] for image in images])
    annotations = []
    for number, entry in enumerate(read_objects(table, images, options["threshold"]), 1):
        if not keep_segmentations:
            entry.pop("segmentation", None)
        if "bbox" in entry:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
        annotations.append({"id": number, "iscrowd": 0, **entry})
    return {
        "images": [image | {"file_name": name} for image, name in zip(images, names, strict=True)],
        "annotations": annotations,
        "categories": options["categories"],
    }
