"""What all readers return: images with objects by class name, in pixels."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.image_files import first_files, image_suffixes
from densevit.data.datasets.rotated_boxes import rotated_corners
from densevit.data.io.channel_files import SUFFIXES as CHANNEL_FILES
from densevit.data.io.folders import files_below
from densevit.data.io.images import Header, image_header
from densevit.errors import DataError, UnreadableFileError
from densevit_workbench.channel_names import channel_names
from densevit_workbench.interchange.faults import Faults, InvalidObjectError
from densevit_workbench.interchange.inventory import Inventory

Split = str  # "train", "val", "test", or "" if a source has no splits
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
UNREAD_FORMATS = (".heic", ".heif", ".avif", ".gif", ".jp2", ".dng")  # image formats that are reported, not read
_ANY_CHANNELS = (".tif", ".tiff", *CHANNEL_FILES)
NO_AREA = "whose box has no area"
TO_CONVERT = "in a format that is not read, to be converted to JPEG"


@dataclass(frozen=True)
class AnnotatedObject:
    """One object. bbox: x, y, width, height in pixels. segmentation: polygons or run lengths, as in COCO's format.

    iscrowd: whether training leaves the object out and evaluation ignores it. more: additional keys of the written
    annotation; they override the fields above. source: the file and place of the object, for messages about it.
    """

    category: str
    bbox: tuple[float, float, float, float]
    segmentation: Any = None
    iscrowd: bool = False
    area: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image file.

    height, width: the size of the annotations' grid. content: the bytes to write; None: copy the file `path`.
    label_file_exists: False for a YOLO image without a text file, converted without objects. negatives: the classes
    without objects in the image, if only these and those with objects are labelled; None: all are. not_exhaustive: the
    classes of which some objects in the image may be unlabelled.
    """

    path: Path
    height: int
    width: int
    objects: tuple[AnnotatedObject, ...]
    content: bytes | None = None
    label_file_exists: bool = True
    negatives: tuple[str, ...] | None = None
    not_exhaustive: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Annotated:
    """A data set: its class names in order, and the images of each split.

    ids: class ids; by default 1, 2, ... skipped: one message per unreadable image. inventories: counts of images,
    label files and objects in the source. notes: how the files were read, as clauses.
    """

    classes: tuple[str, ...]
    splits: dict[Split, list[AnnotatedImage]]
    ids: tuple[int, ...] | None = None
    skipped: tuple[str, ...] = ()
    inventories: tuple[Inventory, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The numbers of classes, and of images and objects per split."""
        counts = {
            split or "all": f"{len(images):,} images with {sum(len(image.objects) for image in images):,} objects"
            for split, images in self.splits.items()
        }
        splits = ", ".join(f"{split}: {text}" for split, text in counts.items())
        skipped = f", left out: {len(self.skipped):,} images" if self.skipped else ""
        return f"Annotated({len(self.classes):,} classes, {splits}{skipped})"


def bounds(points: np.ndarray) -> tuple[float, float, float, float]:
    """The bounding box x, y, width, height of points (N, 2)."""
    low, high = points.min(axis=0), points.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def rotated_object(
    category: str,
    bbox: tuple[float, float, float, float],
    degrees: float,
    limits: tuple[int, int],
    where: str,
    iscrowd: bool = False,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> AnnotatedObject:
    """The object of a rotated box (see `rotation_of`). `more` keeps the rotated box for the written annotation.

    bbox: x, y, w, h before the rotation. degrees: clockwise. limits: the (h, w) for `box_in_image`.
    """
    corners = rotated_corners(np.array([bbox]), np.array([degrees]))[0]
    written = {"bbox": np.round(bbox, 6).tolist(), "segmentation": []}
    written["attributes"] = {**more.get("attributes", {}), "rotation": degrees}
    box, polygon = box_in_image(bounds(corners), limits, where), [corners.ravel().tolist()]
    return AnnotatedObject(category, box, polygon, iscrowd, bbox[2] * bbox[3], {**more, **written})


def polygon_area(points: np.ndarray) -> float:
    """The area of a simple polygon (N, 2), by the shoelace formula."""
    x, y = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def box_in_image(
    bbox: tuple[float, float, float, float], size: tuple[int, int], where: str
) -> tuple[float, float, float, float]:
    """Returns the box x, y, w, h. Raises InvalidObjectError unless it overlaps the image (h, w)."""
    x, y, w, h = bbox
    if not (w > 0 and h > 0):  # also for NaN
        raise InvalidObjectError(
            where, f"its box has the width {w:g} and the height {h:g}; expected more than 0.", NO_AREA
        )
    if x >= size[1] or y >= size[0] or x + w <= 0 or y + h <= 0:
        raise InvalidObjectError(
            where,
            f"its box {x:g}, {y:g}, {w:g}, {h:g} (x, y, w, h) is outside of the image of {size[1]} x {size[0]} pixels.",
            "whose box is outside of the image",
        )
    return bbox


def box_limits(header: Header, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (h, w) for `box_in_image`. size: (h, w) in the label file.

    If EXIF rotates an image and the label file has its stored size, boxes may be on either grid, as `data.boxes` says.
    Then the limits cover both grids.
    """
    return (max(size), max(size)) if size == header.size != header.upright_size else size


def image_files(folder: Path, channels: Channels | None, unread: bool = False) -> list[Path]:
    """All image files below a folder, sorted. channels: the images' channels; None: RGB. unread: include formats that
    are not read."""
    channels = channels or RGB
    files = files_below(folder, (*image_suffixes(channels), *(UNREAD_FORMATS if unread else ())))
    return list(map(Path, first_files(map(str, files), channels))) if channels.files else files


def is_unread(path: Path) -> bool:
    """Whether a file is an image in an unsupported format."""
    return path.suffix.lower() in UNREAD_FORMATS


def image_inventory(
    root: Path,
    wanted: Iterable[Path],
    splits: Mapping[Split, Sequence[AnnotatedImage]],
    unused: str,
    channels: Channels | None,
    is_image: Callable[[Path], bool] = lambda path: True,
) -> Inventory:
    """Counts the images below a folder and the `wanted` images, which may be missing.

    unused: the reason for images that are not wanted. channels: the images' channels; None: RGB. is_image: False for
    files such as masks.
    """
    files = set(map(absolute, wanted))

    def reason(path: Path) -> str:
        if is_unread(path):
            return TO_CONVERT
        if path not in files:
            return unused
        return "that cannot be read" if path.exists() else "named, but missing"

    below = map(absolute, filter(is_image, image_files(root, channels, unread=True)))
    used = (image.path for images in splits.values() for image in images)
    return file_inventory("image", {*below, *files}, used, root, reason)


def file_inventory(
    noun: str, files: Iterable[Path], used: Iterable[Path], root: Path, reason: Callable[[Path], str]
) -> Inventory:
    """Counts files. used: used files, also of other folders. reason: tells why an unused file is left out."""
    used = set(map(absolute, used))
    inventory = Inventory(noun, len(used))
    for path in sorted(set(map(absolute, files)) - used):
        inventory.skip(reason(path), [below_root(path, root)])
    return inventory


def object_inventory(noun: str, used: int, skipped: Iterable[str], root: Path, faults: Faults) -> Inventory:
    """Counts used and invalid objects, and objects of skipped files. skipped: the skipped file of each object."""
    inventory = Inventory(noun, used)
    for reason, places in faults.invalid_objects.items():
        inventory.skip(reason, (shown_place(where, root) for where in places))
    inventory.skip("of a file that is left out", skipped)
    return inventory


def object_count(splits: Mapping[Split, Sequence[AnnotatedImage]]) -> int:
    """The number of objects in all images."""
    return sum(len(image.objects) for images in splits.values() for image in images)


def folder_split(file: Path, root: Path) -> Split:
    """The split whose name a folder between root and file has; "" without one."""
    folders = file.relative_to(root).parts[:-1]
    return next((split for split, names in SPLIT_FOLDERS.items() if any(name in folders for name in names)), "")


def below_root(path: Path, root: Path) -> str:
    """A path for messages: relative to root if it is below root."""
    normal, base = absolute(path), absolute(root)
    return (normal.relative_to(base) if normal.is_relative_to(base) else path).as_posix()


def shown_place(where: str, root: Path) -> str:
    """Shortens a text such as "FILE, line 3" to a path relative to root."""
    return where.removeprefix(f"{root}{os.sep}")


def absolute(path: Path) -> Path:
    """An absolute path without `..`, as the key of a file."""
    text = os.fspath(path)
    normal = os.path.abspath(text)
    return path if normal == text else Path(normal)


def header_of(path: Path, channels: Channels | None) -> Header:
    """Reads the size and orientation of an image. channels: the images' channels; None: see `header_and_channels`.
    Raises DataError for an unreadable file."""
    return header_and_channels(path)[0] if channels is None else image_header(path, channels)


def header_and_channels(path: Path) -> tuple[Header, Channels]:
    """Reads header and channels of an image: RGB, or the channels named in the file."""
    try:
        return image_header(path), RGB
    except UnreadableFileError as error:
        with suppress(DataError):
            if path.suffix.lower() in _ANY_CHANNELS:
                channels = Channels(channel_names(str(path)), "", ())
                return image_header(path, channels), channels
        raise error


def number(text: Any, where: str) -> float:
    """Parses a finite number. Raises DataError for text and InvalidObjectError for NaN. where: a text for the
    message."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {text!r} is not a number.") from None
    if not np.isfinite(value):
        raise InvalidObjectError(where, f"{text!r} is not a finite number.", "with a number that is not finite")
    return value


def named(names: Sequence[Any], where: str) -> tuple[str, ...]:
    """Class names as text. Raises DataError for an empty list or a repeated name."""
    titles = tuple(" ".join(str(name).split()) for name in names)
    if not titles or not all(titles):
        raise DataError(f"{where}: expected the names of the classes; found {list(names)}.")
    twice = next((name for name in titles if titles.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the class {twice!r} occurs twice; names must differ.")
    return titles
