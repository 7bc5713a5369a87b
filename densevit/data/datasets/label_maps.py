"""Folders of images and label maps, one value per pixel: public data sets and custom folders."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import yaml

from densevit.channels import RGB, Channels
from densevit.data.datasets.color_tables import LABELMAP, read_labelmap, suggested_classes
from densevit.data.datasets.file_checks import OnError, check_each
from densevit.data.datasets.label_shares import LabelShares, count_pixels
from densevit.data.datasets.label_values import Ignored, LabelValues
from densevit.data.datasets.pair_paths import LABELS, PairPaths
from densevit.data.datasets.paired_dataset import PairedDataset, load_preset
from densevit.data.datasets.split_folders import check_limit, check_split, root_folder, spellings
from densevit.data.io.channel_files import IMAGES
from densevit.data.io.label_files import JPEG, label_size_of, read_label
from densevit.errors import DataError
from densevit.interfaces import IGNORE, Size

Preset = Literal[
    "ade20k",
    "camvid",
    "cityscapes",
    "cityscapes_train_ids",
    "coco_stuff",
    "coco_stuff_train_ids",
    "pascal_context",
    "pascal_context_59",
    "voc",
]

_FOLDERS: dict[str, Any] = {"images": "images/{split}", "labels": "labels/{split}"}
CHECKED = 200  # label maps that are read before training
_SEEN = 64  # label maps whose values are read if no classes are given
PRESETS = Path(__file__).parent / "presets"


class LabelMaps(PairedDataset):
    """A class for each pixel, from palette, grey or RGB-coded label maps; `targets["semantic"]`.

    root: the data set's folder. The paths below are relative to it; {split} in them becomes the split's name.
    preset: the options of a published data set, in presets/PRESET.yaml next to this file. Other options override the
        preset.
    images, labels: folders, in which files of the same name are pairs, or patterns such as
        "leftImg8bit/{split}/*/*_leftImg8bit.png", in which the stars match the name (see `find_pairs`). By default
        images/{split} and labels/{split}, or images and labels, or JPEGImages and SegmentationClass next to a
        labelmap.txt, with the lists in ImageSets/Segmentation.
    list_file: the images to use, one name per line, or the paths of an image and its label map.
    splits: the names of train and val on disk, {train: trainaug}; by default also training, valid and validation.
    classes: names in the order of label values from 0; or {name, id, color}, with `ids` or `colors` for several values
        or, in RGB files, colours of one class. A class's file_id is its id, or the first of its ids. If all classes
        have a colour and none an id, the palette of an indexed file counts, not its indices. By default the classes of
        CVAT's labelmap.txt in root, one line `name:red,green,blue::` per class.
    ignore: the label values and colours that are not a class (see `Ignored`).
    outside_paths: whether a list file may name files outside of root, `images` and `labels`.
    val_share: the share of the validation images of a data set without a val split, by default 0.2. An error if there
        is a val split. Identical and nearly identical images stay in one part, and the parts depend only on the images'
        content (see `validation_part`). A preset with paths for each split is divided only if val_share is given.
    limit: the number of images to use, the first ones.

    Pairs must be complete; `check_files` checks that both files have the same size, and `check_labels` the values of
    the first 200 label maps. It is an error if a class has no pixel while many pixels are 255 and no option names 255.
    """

    noun = "label"
    provides = ("semantic",)

    def __init__(
        self,
        split: str,
        root: str | None = None,
        preset: Preset | None = None,
        images: str | None = None,
        labels: str | None = None,
        list_file: str | None = None,
        splits: dict[str, str] | None = None,
        classes: list[str | dict[str, Any]] | None = None,
        ignore: Ignored | None = None,
        outside_paths: bool = False,
        val_share: float | None = None,
        limit: int | None = None,
        *,
        on_error: OnError = "raise",
        channels: Channels = RGB,
    ) -> None:
        check_limit(limit)
        base, preset_options = root_folder(root), _preset(preset) if preset is not None else {}
        classes = preset_options.get("classes") if classes is None else classes
        ignore = Ignored(**preset_options.get("ignore", {})) if ignore is None else ignore
        files = {"images": images, "labels": labels, "list_file": list_file, "splits": splits}
        set_options = {key: value for key, value in files.items() if value is not None}
        preset_files = {key: preset_options[key] for key in files if key in preset_options}
        is_named = bool(preset_files or set_options.keys() - {"splits"})
        self.paths = PairPaths(**(_FOLDERS if is_named else _default_files(base)) | preset_files | set_options)
        self._palette = classes is None and (base / LABELMAP).is_file()
        if self._palette:
            classes = [*read_labelmap(base / LABELMAP)]
        if classes is None:
            raise _missing_classes(base, split, self.paths)
        self.values = LabelValues(classes, ignore)
        self.classes = {"segmentation": self.values.classes}
        check_split(base, split, self.paths.patterns, self.paths.splits)
        has_parts = self.paths.is_divided(base, split, val_share, needs_val=preset is not None)
        self.open_pairs(base, split, self.paths, val_share, has_parts, limit, outside_paths, channels, on_error)

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """Returns options to read a folder of images and label maps (integers up to 255, or up to 255 colours), else
        None. Without a labelmap.txt, the option `classes` lists these integers or colours."""
        files = PairPaths(**_default_files(root)).label_files(root, "train")
        if not files or files[0].suffix.lower() not in (*LABELS, *JPEG):
            return None
        if (root / LABELMAP).is_file():
            return {}
        maps = [read_label(path) for path in _sampled(files)]
        if any(label_map.dtype != np.uint8 for label_map in maps) or len({label_map.ndim for label_map in maps}) > 1:
            return None
        suggested = suggested_classes(maps)
        return None if suggested is None else {"classes": [entry for entry, _ in suggested]}

    def label_size(self, path: str) -> Size:
        """Returns (h, w) of a label map, from its header."""
        return label_size_of(path)

    def target(self, index: int) -> np.ndarray:
        """Returns `semantic` (H, W) uint8: class indices, 255 = ignore."""
        path, values = self.label_path(index), self.values
        pixels = read_label(path, values.by_color, values.by_grey)
        if self._palette and pixels.ndim == 2 and not values.by_grey:
            raise DataError(
                f"{path} has grey values, but {Path(self.root) / LABELMAP} has colours. Fix: name the classes with "
                "data.classes in the order of these values."
            )
        return values.indices(pixels, path)

    def check_labels(self) -> None:
        """Reads the first 200 label maps. Raises DataError for a value of no class and as `check_shares`."""
        self.check_shares(self.shares(range(min(len(self), CHECKED))))

    def check_shares(self, shares: LabelShares) -> None:
        """Raises DataError if all pixels are ignored, if 255 may be a class, and in training if all pixels have one
        class."""
        if message := shares.ambiguous():
            raise DataError(message)
        if not shares.present:
            raise DataError(
                f"{self.label_path(0)}: as in all label maps of the split {self.split!r} that were read, every pixel "
                f"is ignored, so that nothing can be learned or measured. Check data.ignore.index and "
                "data.classes."
            )
        if self.split == "train" and (message := shares.single_class()):
            raise DataError(message)

    def shares(self, indices: Sequence[int]) -> LabelShares:
        """Counts the pixels of each class in some label maps, read in threads."""
        pixels, lock = np.zeros(IGNORE + 1, np.int64), Lock()

        def count(position: int) -> None:
            counts = count_pixels(self.target(indices[position]))
            with lock:
                np.add(pixels, counts, out=pixels)

        check_each(len(indices), count, self._on_error)
        where = f"{self.root}, split {self.split!r}"
        return LabelShares(self.values, pixels, where, self.split == "train" and len(indices) == len(self))


def _default_files(root: Path) -> dict[str, Any]:
    """Returns the options `images`, `labels` and `list_file` of a folder's layout."""
    lists = root / "ImageSets" / "Segmentation"
    if (root / LABELMAP).is_file() and (root / "SegmentationClass").is_dir():
        has_lists = any((lists / f"{name}.txt").is_file() for name in spellings("train"))
        list_file = {"list_file": "ImageSets/Segmentation/{split}.txt"} if has_lists else {}
        return {"images": "JPEGImages", "labels": "SegmentationClass", **list_file}
    has_images = any(path.suffix.lower() in IMAGES for path in root.glob("images/*"))
    return {"images": "images", "labels": "labels"} if has_images else _FOLDERS


def _sampled(files: list[Path]) -> list[Path]:
    return files[:: -(-len(files) // _SEEN)]


def _missing_classes(root: Path, split: str, paths: PairPaths) -> DataError:
    """Returns the error for a config without classes, which suggests the values or colours of some label maps."""
    text = (
        "data.classes is missing: name the classes in the order of their label values, as in `classes: [road, tree]` "
        "or `classes: [{name: road, id: 7, color: [128, 64, 128]}, ...]`, or a data.preset."
    )
    files = _sampled(paths.label_files(root, split))
    try:
        suggested = suggested_classes([read_label(path) for path in files])
    except DataError:  # an invalid file, which is reported when the classes are given
        suggested = None
    if not suggested:
        return DataError(text)
    lines = [
        f"\n  - {yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1000).strip()}  # {share:.2%}"
        for entry, share in suggested
    ]
    return DataError(
        f"{text} Found in {len(files)} label maps of {root}, with their shares of the pixels; name them, or move them "
        f"to ignore.index or ignore.colors:\nclasses:{''.join(lines)}"
    )


def _preset(name: str) -> dict[str, Any]:
    """Returns the options of a preset. A preset with `base` takes the base preset's classes, renumbered in order."""
    options = load_preset(PRESETS, name)
    if "base" in options:
        classes = _preset(options.pop("base"))["classes"]
        kept = [{key: entry[key] for key in ("name", "color") if key in entry} for entry in classes]
        options["classes"] = [{**entry, "id": index} for index, entry in enumerate(kept)]
    return options
