"""Images without labels in a folder."""

import hashlib
import os
from pathlib import Path

from densevit.channels import RGB, Channels
from densevit.data.datasets.data_root import root_folder
from densevit.data.datasets.image_files import images_below, warn_of_unread
from densevit.data.datasets.measured_images import MeasuredImages
from densevit.data.datasets.split_names import DIVIDED, missing_split
from densevit.data.io.channel_files import IMAGES
from densevit.errors import DataError
from densevit.interfaces import Sample


class UnlabelledImages(MeasuredImages):
    """Images without labels, for training methods that need none.

    root: the folder. If it has a folder `train` or `val`, a split consists of the images below its folder. Otherwise
        all images below root are divided into train and val.
    val_share: the share of the validation images if root has no folders for the splits. A hash of its path relative to
        root assigns an image, so that it stays in its split when other images are added or removed.

    `image_id` is the path relative to root. `check_files` checks that all images are complete.
    """

    provides = ()

    def __init__(
        self,
        split: str,
        root: str | None = None,
        val_share: float = 0.1,
        *,
        channels: Channels = RGB,
    ) -> None:
        if not 0 < val_share < 1:
            raise DataError(f"data.val_share is {val_share:g}; a number above 0 and below 1 is expected.")
        self.classes = {}
        base = root_folder(root)
        self.open(base, _paths(base, split, val_share, channels), channels)

    def __getitem__(self, index: int) -> Sample:
        image_id = Path(os.fsdecode(self._paths[index])).as_posix()
        return {"image": self.image(index), "targets": {"image_id": image_id}}

    def check_labels(self) -> None:
        """Raises DataError: the images have no labels."""
        raise DataError(
            f"{self.root}: the data set 'images' has no labels, and heads are trained and evaluated with labels. Fix: "
            "name a data set with labels, or train the backbone alone: `heads: {}` and a method that needs no labels."
        )


def _paths(root: Path, split: str, val_share: float, channels: Channels) -> list[str]:
    """Returns the sorted paths of a split's images, relative to root. Warns of images that are left out. Raises
    DataError if there are none."""
    has_folders = any((root / name).is_dir() for name in (*DIVIDED, split))
    folder = root / split if has_folders else root
    if split not in DIVIDED and not (root / split).is_dir():
        raise missing_split(root, split, _folders(root) if has_folders else DIVIDED)
    if not folder.is_dir():
        raise DataError(
            f"The splits of {root} are {', '.join(_folders(root))}; there is no folder {folder}. Fix: create it; or "
            "remove the folders of the other splits from data.root, whose images are then divided by data.val_share."
        )
    paths, unread = images_below(folder, root, channels)
    warn_of_unread(folder, unread, len(paths))
    if not paths:
        raise DataError(f"{folder} contains no images ({', '.join(IMAGES)}).")
    if has_folders:
        return paths
    chosen = [path for path in paths if (_hash(path) < val_share) == (split == "val")]
    if not chosen:
        raise DataError(
            f"{folder} contains {len(paths)} images, of which data.val_share={val_share:g} assigns none to {split!r}. "
            "Fix: change data.val_share, or put the images into folders train and val."
        )
    return chosen


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _hash(path: str) -> float:
    """Returns a number in [0, 1) that depends only on the path."""
    digest = hashlib.sha256(Path(path).as_posix().encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
