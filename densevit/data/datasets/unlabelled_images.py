"""Images without labels in a folder."""

from pathlib import Path

import numpy as np

from densevit.channels import RGB, Channels
from densevit.data.datasets.division import is_divided
from densevit.data.datasets.image_files import images_below, warn_of_unread
from densevit.data.datasets.image_folder import class_folders
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.datasets.split_folders import DIVIDED, missing_split, root_folder
from densevit.data.io.channel_files import IMAGES
from densevit.errors import DataError
from densevit.interfaces import Sample

_VAL_SHARE = 0.1


class UnlabelledImages(MeasuredImages):
    """Images without labels, for training methods that need none.

    root: the folder. If it has a folder `train` or `val`, a split consists of the images below its folder, and else of
        all images below root.
    val_share: the share of the validation images of a data set without a val split, by default 0.1. Identical and
        nearly identical images stay in one part (see `validation_part`).

    `image_id` is the path relative to root. `check_files` checks that all images are complete.
    """

    provides = ()

    def __init__(
        self,
        split: str,
        root: str | None = None,
        val_share: float | None = None,
        *,
        channels: Channels = RGB,
    ) -> None:
        self.classes = {}
        base = root_folder(root)
        has_parts = is_divided(split, val_share, base / "val" if (base / "val").is_dir() else None)
        paths = _paths(base, "train" if has_parts else split, channels)
        if has_parts:
            chosen = self.choose(base, paths, split, val_share or _VAL_SHARE, None, base, channels)
            paths = [paths[i] for i in np.flatnonzero(chosen)]
        self.open(base, paths, channels)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.image(index), "targets": {"image_id": self.image_name(index)}}

    def check_labels(self) -> None:
        """Raises DataError: the images have no labels."""
        raise DataError(
            f"{self.root}: the data set 'images' has no labels, and heads are trained and evaluated with labels. Fix: "
            "name a data set with labels, or train the backbone alone: `heads: {}` and a method that needs no labels."
        )


def _paths(root: Path, split: str, channels: Channels) -> list[str]:
    """Returns the sorted paths of the images in a split's folder, or in root, relative to root. Warns of images that
    are left out. Raises DataError if there are none."""
    has_folders = any((root / name).is_dir() for name in (*DIVIDED, split))
    folder = root / split if has_folders else root
    if split not in DIVIDED and not (root / split).is_dir():
        raise missing_split(root, split, class_folders(root) if has_folders else DIVIDED)
    if not folder.is_dir():
        raise DataError(
            f"The splits of {root} are {', '.join(class_folders(root))}; there is no folder {folder}. Fix: create it."
        )
    paths, unread = images_below(folder, root, channels)
    warn_of_unread(folder, unread, len(paths))
    if not paths:
        raise DataError(f"{folder} contains no images ({', '.join(IMAGES)}).")
    return paths
