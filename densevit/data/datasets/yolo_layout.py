"""Recognises folders in YOLO's layout, which `densevit data convert yolo` converts."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from densevit.errors import DataError

_SEEN = 20  # label files that are looked at


def is_yolo_folder(root: Path) -> bool:
    """Whether a folder has text files of a class and coordinates within 0 ... 1 a line, in a folder `labels`."""
    files = list(islice(_label_files(root), _SEEN))
    return bool(files) and all(map(_holds_labels, files)) and any(file.stat().st_size for file in files)


def check_no_yolo_folder(root: Path) -> None:
    """Raises DataError with the command that converts it, for a folder in YOLO's layout."""
    if is_yolo_folder(root):
        raise DataError(
            f"{root} is a data set in YOLO's format, with a text file an image. Fix: convert it to COCO's, into a new "
            f"folder, and name that as data.root: densevit data convert yolo {root} NEW_FOLDER"
        )


def _label_files(root: Path) -> Iterator[Path]:
    for folder in (root / "labels", *sorted(root.glob("*/labels"))):
        yield from (file for file in sorted(folder.rglob("*.txt")) if file.stem != "classes")


def _holds_labels(file: Path) -> bool:
    """Whether all lines have a class index and four or more numbers of about 0 ... 1."""
    try:
        rows = [[float(part) for part in line.split()] for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return False
    return all(len(row) >= 5 and row[0] == int(row[0]) >= 0 and max(map(abs, row[1:])) < 2 for row in rows)
