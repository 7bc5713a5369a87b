"""Folders of images and label maps, one value a pixel: public data sets and one's own."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from densevit.data.datasets.data_root import root_folder
from densevit.data.datasets.dataset_validation import for_each
from densevit.data.datasets.label_values import LabelValues
from densevit.data.datasets.paired_dataset import PairedDataset, Size, load_preset
from densevit.data.datasets.paired_files import LABELS, find_pairs, label_files
from densevit.data.datasets.scan_cache import Arrays
from densevit.data.io.label_files import label_size_of, read_label
from densevit.errors import DataError
from densevit.interfaces import IGNORE

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

_SEEN = 64  # label maps whose values are looked at where no classes are given
PRESETS = Path(__file__).parent / "presets"
_FOLDERS: dict[str, Any] = {"images": "images/{split}", "labels": "labels/{split}"}


class LabelMaps(PairedDataset):
    """A class for each pixel, from palette, grey or RGB-coded label maps; `targets["semantic"]`.

    root: the data set's folder; the paths below are relative to it, and {split} in them becomes the split's name.
    preset: the options of a known data set, in presets/PRESET.yaml beside this file. Options given besides it win.
    images, labels: folders, in which files of one name belong together, or patterns as
        "leftImg8bit/{split}/*/*_leftImg8bit.png", in which the stars match the name (see `find_pairs`). By default
        images/{split} and labels/{split}.
    list_file: the images to use, a name a line, or the paths of an image and of its label map.
    splits: the names of train and val on disk, {train: trainaug}; by default also training, valid and validation.
    classes: names in the order of label values from 0; or {name, id, color}, with `ids` or `colors` where several
        values or, in RGB files, colours are one class. A class's file_id is its id, or the first of its ids.
    ignore_index: the label value or values that are no class; by default 255, unless a class has it.
    reduce_zero_label: 0 is "other" and ignored, and classes without an id count from 1, as in ADE20K.
    ignore_colors: the colours, in RGB files, that are no class.
    outside_paths: whether a list file may name files outside of root, `images` and `labels`.
    limit: the number of images to use, the first ones.

    All files are checked at the start: that pairs are complete and of one size, and each value of each label map.
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
        ignore_index: int | list[int] | None = None,
        reduce_zero_label: bool | None = None,
        ignore_colors: list[tuple[int, int, int]] | None = None,
        outside_paths: bool = False,
        limit: int | None = None,
    ) -> None:
        files = {"images": images, "labels": labels, "list_file": list_file, "splits": splits}
        values: dict[str, Any] = {
            "classes": classes,
            "ignore_index": ignore_index,
            "reduce_zero_label": reduce_zero_label,
            "ignore_colors": ignore_colors,
        }
        known = _preset(preset) if preset is not None else {}
        values = {key: known.get(key) if value is None else value for key, value in values.items()}
        if values["classes"] is None:
            raise DataError(
                "data.classes is missing: name the classes in the order of their label values, as in `classes: [road, "
                "tree]` or `classes: [{name: road, id: 7, color: [128, 64, 128]}, ...]`, or a data.preset."
            )
        self._values = LabelValues(**{key: value for key, value in values.items() if value is not None})
        self.classes = {"segmentation": self._values.classes}
        if limit is not None and limit < 1:
            raise DataError(f"data.limit is {limit}; expected at least 1 image.")
        base = root_folder(root)
        preset_files = {key: known[key] for key in files if key in known}
        given = {key: value for key, value in files.items() if value is not None}
        options = _FOLDERS | preset_files | given
        self.open(base, split, find_pairs(base, split, **options, limit=limit, outside_paths=outside_paths))
        self._labelled = self._scanned["labelled"]

    @classmethod
    def recognise(cls, root: Path) -> dict[str, Any] | None:
        """A folder with images/train and labels/train, of files of whole numbers up to 255. Classes are the values."""
        files = label_files(root)
        if not files or files[0].suffix.lower() not in LABELS:
            return None
        maps = [read_label(path) for path in files[:: -(-len(files) // _SEEN)]]
        if any(one.ndim == 3 or one.dtype != np.uint8 for one in maps):
            return None
        values = np.unique(np.concatenate([np.unique(one) for one in maps]))
        return {"classes": [{"name": f"value {value}", "id": value} for value in values.tolist() if value != IGNORE]}

    def scan_key(self) -> list[Any]:
        """Also the values of the classes."""
        return [*super().scan_key(), self._values.key()]

    def scan(self) -> Arrays:
        """Also whether each label map has a pixel that is not ignored."""
        scan, self._labelled = super().scan(), np.zeros(len(self), bool)
        for_each(len(self), self._check, "Validating labels", needed=())
        return scan | {"labelled": self._labelled}

    def size_of(self, path: str) -> Size:
        """(h, w) of a label map, from its header."""
        return label_size_of(path)

    def target(self, index: int) -> np.ndarray:
        """`semantic` (H, W) uint8: class indices, 255 = ignore."""
        path = self.label_path(index)
        return self._values.indices(read_label(path), path)

    def check_labels(self) -> None:
        """Raises DataError where every pixel of every label map is ignored."""
        if not self._labelled.any():
            raise DataError(
                f"{self.label_path(0)}: as in all {len(self)} labels of the split {self._split!r}, every pixel is "
                "ignored, so that nothing can be learned or measured. Check data.ignore_index and data.classes."
            )

    def _check(self, index: int) -> None:
        self._labelled[index] = self.target(index).min() != IGNORE


def _preset(name: str) -> dict[str, Any]:
    """The options of a preset. One with `base` has the classes of that other preset, numbered in their order."""
    options = load_preset(PRESETS, name)
    if "base" in options:
        classes = _preset(options.pop("base"))["classes"]
        options["classes"] = [{key: one[key] for key in ("name", "color") if key in one} for one in classes]
    return options
