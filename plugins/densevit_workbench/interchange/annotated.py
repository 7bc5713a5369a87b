"""The result of the readers of all formats: images with objects by class name, in pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from densevit.data.datasets.paired_files import IMAGES
from densevit.data.io.file_errors import check_regular
from densevit.data.io.images import check_image
from densevit.errors import DataError, one_line

Split = str  # "train", "val", "test", or "" if a source has no splits


@dataclass(frozen=True)
class AnnotatedObject:
    """One object. bbox: x, y, width, height in pixels. segmentation: polygons or run lengths, as in COCO's format.

    iscrowd: whether training leaves it out and evaluation ignores it. more: further values to keep, by key.
    """

    category: str
    bbox: tuple[float, float, float, float]
    segmentation: Any = None
    iscrowd: bool = False
    area: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image file.

    height, width: of the annotations' grid. content: the bytes of a file to write; None: `path` is the file.
    label_file_exists: False for a YOLO image without a text file, which is converted without objects.
    """

    path: Path
    height: int
    width: int
    objects: tuple[AnnotatedObject, ...]
    content: bytes | None = None
    label_file_exists: bool = True


@dataclass(frozen=True, repr=False)
class Annotated:
    """A data set: its class names in order, and the images of each split.

    ids: of the classes; by default 1, 2, ... left_out: one message for each image that cannot be read and is left out.
    keypoints: the names of the keypoints that objects have in `more`.
    """

    classes: tuple[str, ...]
    splits: dict[Split, list[AnnotatedImage]]
    ids: tuple[int, ...] | None = None
    left_out: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The numbers of classes, and of images and objects of each split."""
        counts = {
            split or "all": f"{len(images):,} images with {sum(len(image.objects) for image in images):,} objects"
            for split, images in self.splits.items()
        }
        splits = ", ".join(f"{split}: {text}" for split, text in counts.items())
        left_out = f", left out: {len(self.left_out):,} images" if self.left_out else ""
        return f"Annotated({len(self.classes):,} classes, {splits}{left_out})"


def bounds(points: np.ndarray) -> tuple[float, float, float, float]:
    """Returns x, y, width and height of the box around points (N, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def polygon_area(points: np.ndarray) -> float:
    """Returns the area of a simple polygon (N, 2), by the shoelace formula."""
    x, y = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def image_files(folder: Path) -> list[Path]:
    """Returns all image files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and not path.name.startswith("."))


def shown_size(path: Path) -> tuple[int, int]:
    """Returns (h, w) of an image after its EXIF rotation. Raises DataError for a file that cannot be read."""
    return check_image(path).upright_size


def read_text(path: Path) -> str:
    """Returns the content of a text file. Raises DataError if it cannot be read."""
    check_regular(path)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {one_line(error)}.") from None


def number(text: Any, where: str) -> float:
    """Returns a finite number. Raises DataError with the place `where`."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise DataError(f"{where}: {text!r} is not a number.")
    return value


def named(names: Sequence[Any], where: str) -> tuple[str, ...]:
    """Returns class names as text. Raises DataError for an empty list, and for a name that occurs twice."""
    titles = tuple(" ".join(str(name).split()) for name in names)
    if not titles or not all(titles):
        raise DataError(f"{where}: expected the names of the classes; found {list(names)}.")
    twice = next((name for name in titles if titles.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the class {twice!r} occurs twice; names must differ.")
    return titles
