"""Recognises folders in the layouts of YOLO, Pascal VOC and labelme."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

from densevit.data.io.channel_files import IMAGES
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.text_files import read_json, read_text
from densevit.errors import DataError
from densevit_workbench.interchange.yaml_text import read_yaml_as_text

_SEEN = 20  # label files to read
_LARGEST = 1 << 22  # bytes of a json to read: labelme's describes one image
_DEPTHS = ("", "*/", "*/*/")  # patterns of folders to search for label files


def foreign_format(path: Path) -> str | None:
    """Returns the format of a folder or of YOLO's data.yaml: yolo, voc, labelme, or None."""
    if path.is_file():
        return "yolo" if _describes_yolo(path) else None
    if is_yolo_folder(path):
        return "yolo"
    for format, suffix, is_label in (("voc", "xml", _is_voc), ("labelme", "json", _is_labelme)):
        files = (file for depth in _DEPTHS for file in path.glob(f"{depth}*.{suffix}"))
        if any(map(is_label, islice(files, _SEEN))):
            return format
    return None


def is_yolo_folder(root: Path) -> bool:
    """Whether a folder has YOLO's data.yaml, or text files with a class and coordinates within 0 ... 1 per line.

    The text files are in a folder `labels`, or beside their images.
    """
    if any(map(_describes_yolo, (root / "data.yaml", root / "dataset.yaml"))):
        return True
    files = list(islice(_label_files(root), _SEEN))
    return bool(files) and all(map(_holds_labels, files)) and any(file.stat().st_size for file in files)


def _describes_yolo(file: Path) -> bool:
    """Whether a file is a yaml with the names of classes and the folders of images."""
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return False
    try:
        values = read_yaml_as_text(file)
    except DataError:
        return False
    return isinstance(values, dict) and "names" in values and ("train" in values or "val" in values)


def _label_files(root: Path) -> Iterator[Path]:
    for folder in (root / "labels", *sorted(root.glob("*/labels"))):
        yield from (file for file in sorted(folder.rglob("*.txt")) if file.stem != "classes" and file.is_file())
    for depth in _DEPTHS[:2]:
        for file in root.glob(f"{depth}*.txt"):
            if file.is_file() and any(file.with_suffix(suffix).is_file() for suffix in (*IMAGES, *CHANNEL_FILES)):
                yield file


def _holds_labels(file: Path) -> bool:
    """Whether all lines have a class index and four or more numbers of about 0 ... 1."""
    try:
        rows = [[float(part) for part in line.split()] for line in read_text(file).splitlines() if line.strip()]
    except ValueError:  # also DataError
        return False
    return all(len(row) >= 5 and row[0] == int(row[0]) >= 0 and max(map(abs, row[1:])) < 2 for row in rows)


def _is_voc(file: Path) -> bool:
    """Whether an xml file is an annotation of an image."""
    if not file.is_file():
        return False
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError):
        return False
    is_annotation = any(root.find(name) is not None for name in ("object", "filename", "size"))
    return root.tag == "annotation" and is_annotation and root.find("object/polygon") is None  # of LabelMe 3.0


def _is_labelme(file: Path) -> bool:
    """Whether a json file holds the shapes of an image."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return False
        document = read_json(file)
    except (OSError, DataError):
        return False
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document
