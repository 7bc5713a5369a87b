"""Images of one class per folder, as torchvision's `ImageFolder` reads them."""

import os
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densevit.channels import RGB, Channels
from densevit.data.datasets.division import is_divided
from densevit.data.datasets.image_files import images_below, warn_of_unread
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.datasets.paired_folders import paired_folders
from densevit.data.datasets.split_folders import DIVIDED, check_limit, check_split, root_folder, spellings, split_path
from densevit.data.io.channel_files import IMAGES
from densevit.errors import DataError, listed
from densevit.interfaces import Class, Sample, color_of

_NO_CLASSES = {"images", "labels", "masks", "annotations"}  # folders of other layouts
_LAYOUT = "one folder per class, {split}/CLASS/*.jpg"


class ImageFolder(MeasuredImages):
    """The class of each image, by its folder: ROOT/{split}/CLASS/*.jpg; `targets["image_class"]`.

    root: the data set's folder.
    images: the folder of the class folders, relative to root; {split} becomes the split's name. By default {split}, or
        root itself if it has no folder of a split.
    splits: the names of train and val on disk, {val: holdout}; by default also training, valid and validation.
    val_share: the share of the validation images of a data set without a val split, by default 0.2. An error if there
        is a val split. Identical and nearly identical images stay in one part (see `validation_part`).
    limit: the number of images to use, evenly spaced.

    Classes are the folders of the training split, sorted by name, with file ids from 0. Images may be in subfolders of
    their class. `image_id` is the path relative to root. `check_files` checks that all images are complete.
    """

    provides = ("image_class",)

    def __init__(
        self,
        split: str,
        root: str | None = None,
        images: str | None = None,
        splits: dict[str, str] | None = None,
        val_share: float | None = None,
        limit: int | None = None,
        *,
        channels: Channels = RGB,
    ) -> None:
        check_limit(limit)
        base = root_folder(root)
        pattern = _pattern(base, images)
        train, val = (_folder(base, pattern, name, splits) for name in DIVIDED)
        has_parts = is_divided(split, val_share, None if val == train or not val.is_dir() else val)
        check_split(base, split, [pattern], splits)
        folder = train if has_parts else _folder(base, pattern, split, splits)
        names = class_folders(train if train.is_dir() else folder)
        _check_classes(base, folder, names)
        if maps := paired_folders(train if train.is_dir() else folder, names):
            raise DataError(
                f"{maps.maps} holds maps of the images in {maps.images}, with the same names and sizes; "
                f"these are no classes. Fix: {maps.options(base)}; or give the files of a class "
                "other names."
            )
        self.classes = {"classification": tuple(Class(name, i, color_of(i)) for i, name in enumerate(names))}
        paths, labels = _images(base, folder, names, channels)
        if has_parts:
            chosen = self.choose(base, paths, split, val_share, None, base, channels)
            paths, labels = [paths[i] for i in np.flatnonzero(chosen)], labels[chosen]
        if limit is not None and limit < len(paths):
            places = np.linspace(0, len(paths) - 1, limit).round().astype(int)
            paths, labels = [paths[i] for i in places], labels[places]
        self._labels = labels
        self.open(base, paths, channels)

    def __getitem__(self, index: int) -> Sample:
        label = torch.tensor(int(self._labels[index]))
        return {"image": self.image(index), "targets": {"image_id": self.image_name(index), "image_class": label}}

    def image_classes(self) -> np.ndarray:
        """Returns (N, 2): each image with its class."""
        return np.stack([np.arange(len(self)), self._labels], axis=1)

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns {} if there are at least two folders {split}/CLASS or CLASS with images, no images next to them, and
        none of label or depth maps, else None."""
        folder = _folder(root, _pattern(root, None), "train", None)
        names = class_folders(folder) if folder.is_dir() else []
        is_other = len(names) < 2 or _NO_CLASSES & {name.lower() for name in names} or _has_image(folder)
        has_images = not is_other and all(_has_image(folder / name) for name in names)
        return {} if has_images and not paired_folders(folder, names) else None


def class_folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones. Raises DataError if it is missing."""
    if not folder.is_dir():
        raise DataError(
            f"There is no folder {folder}. Expected {_LAYOUT} in data.root, or set data.images or data.val_split."
        )
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _pattern(root: Path, images: str | None) -> str:
    """Returns the folder of the class folders, relative to root, with {split} if root has folders for the splits."""
    if images is not None:
        return images
    names = (*spellings("train"), *spellings("val"), "test")
    return "{split}" if any((root / name).is_dir() for name in names) else "."


def _folder(root: Path, pattern: str, split: str, splits: dict[str, str] | None) -> Path:
    """Returns the folder of a split, by its name in `splits` or else by the first spelling that exists."""
    disk_name = (splits or {}).get(split)
    folders = [root / split_path(pattern, name) for name in ([disk_name] if disk_name else spellings(split))]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _check_classes(root: Path, folder: Path, names: list[str]) -> None:
    """Raises DataError for fewer than two classes, and for folders that the training split does not have."""
    if len(names) < 2:
        there = f"only {names[0]}" if names else "none"
        raise DataError(
            f"{folder}: expected at least two folders with images, {_LAYOUT}; found {there}. Fix: set data.root to "
            "the folder above train and val, or data.images to the folder of the class folders."
        )
    if unknown_folders := [name for name in class_folders(folder) if name not in names]:
        raise DataError(
            f"{folder} has {len(unknown_folders)} folders that the training split does not have: "
            f"{listed(unknown_folders)}. Expected the folders {listed(names)}. Fix: rename or remove "
            "them, or add images of these classes to the training split."
        )


def _images(root: Path, folder: Path, names: list[str], channels: Channels) -> tuple[list[str], np.ndarray]:
    """Returns the paths of all images relative to root, and their class indices (N,).

    Warns of images of formats that are not read. Raises DataError if there are none, and for images that are in no
    folder of a class.
    """
    if lone := [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGES)]:
        raise DataError(f"{folder / lone[0]} is in no folder of a class. Expected {_LAYOUT}. Fix: move or remove it.")
    class_images, unread = zip(*(images_below(folder / name, root, channels) for name in names), strict=True)
    paths = [*chain(*class_images)]
    warn_of_unread(folder, [*chain(*unread)], len(paths))
    if not paths:
        raise DataError(f"{folder} has the folders {listed(names)}, but no images ({', '.join(IMAGES)}) in them.")
    return paths, np.repeat(np.arange(len(names)), [*map(len, class_images)])


def _has_image(folder: Path) -> bool:
    return any(entry.name.lower().endswith(IMAGES) for entry in os.scandir(folder) if entry.is_file())
