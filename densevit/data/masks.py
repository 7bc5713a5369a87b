"""Pictures with label files, one value a pixel: the official sets, and folders of one's own."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from densevit.data.images import check_image, read_image
from densevit.data.label_files import label_size_of, read_label
from densevit.data.label_pairs import LabelledPictures, Pairs, find_pairs, root_folder
from densevit.data.label_values import LabelValues
from densevit.data.scan import progress
from densevit.errors import DataError
from densevit.interfaces import IGNORE, Sample

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

PRESETS = Path(__file__).parent / "presets"
_FOLDERS: dict[str, Any] = {"images": "images/{split}", "labels": "labels/{split}"}
_CHUNK = 32  # labels that a thread takes at a time


class Masks(LabelledPictures):
    """A class for each pixel, from indexed, grey or RGB-coded label files; `targets["semantic"]`.

    root: the data set's folder; the paths below are relative to it, and {split} in them becomes the split's name.
    preset: the options of a known data set, densevit/data/presets/PRESET.yaml. Options given besides it go first.
    images, labels: folders, in which files of one name belong together, or patterns as
        "leftImg8bit/{split}/*/*_leftImg8bit.png", in which the stars stand for the name (see `find_pairs`). By default
        images/{split} and labels/{split}.
    list_file: the pictures to use, a name a line, or a picture's path and its label's.
    splits: what train and val are called on disk, {train: trainaug}; without it also training, valid and validation.
    classes: names in the order of label values from 0; or {name, id, color}, with `ids` or `colors` where several
        values or, in RGB files, colours are one class. A class's file_id is its id, or the first of its ids.
    ignore_index: the label value or values that are no class; by default 255, unless a class has it.
    reduce_zero_label: 0 is "other" and ignored, and classes without an id count from 1, as in ADE20K.
    ignore_colors: the colours, in RGB files, that are no class.
    limit: only the first so many pictures.

    All is checked at the start: that pairs are complete and of one size, and every value in every label. A label of the
    picture's size as stored, where EXIF turns it, leaves the picture as stored. `image_id` is the picture's name.
    """

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
            raise DataError(f"data.limit is {limit}; expected at least 1 picture.")
        base = root_folder(root)
        given = {key: value for key, value in files.items() if value is not None}
        self._pairs = find_pairs(base, split, **(_FOLDERS | _files_of(known) | given), limit=limit)
        self._root = str(base)
        self._sizes, self._upright, self._labelled = _scan(self._root, self._pairs, self._values)
        self._split = split

    def check_labels(self) -> None:
        """Raises DataError where every pixel of every label is ignored."""
        if not self._labelled:
            raise DataError(
                f"{self.label_path(0)}: as in all {len(self)} labels of the split {self._split!r}, every pixel is "
                "ignored, so that nothing can be learned or measured. Check data.ignore_index and data.classes."
            )

    def __getitem__(self, index: int) -> Sample:
        """The sample, with `semantic` (H, W) uint8: class indices, 255 = ignore."""
        pixels = read_image(self.path(index), upright=bool(self._upright[index]))
        label = self.label_path(index)
        semantic = self._values.indices(read_label(label), label)
        size = (int(self._sizes[index, 0]), int(self._sizes[index, 1]))
        for path, found in ((self.path(index), pixels.shape[:2]), (label, semantic.shape)):
            if found != size:
                raise DataError(f"{path} has changed since the start: {found} pixels, not {size}.")
        return {
            "image": torch.from_numpy(pixels).permute(2, 0, 1),
            "targets": {
                "image_id": os.fsdecode(self._pairs.names[index]),
                "semantic": torch.from_numpy(semantic),
            },
        }


def _preset(name: str) -> dict[str, Any]:
    """The options that a preset stands for.

    One with `base` has the classes of that other preset, numbered in their order instead of by their ids.
    """
    file = PRESETS / f"{name}.yaml"
    if not file.is_file():
        raise DataError(f"data.preset: there is no {name!r}. Presets: {', '.join(sorted(_presets()))}.")
    options = yaml.load(file.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if "base" in options:
        classes = _preset(options.pop("base"))["classes"]
        options["classes"] = [{key: one[key] for key in ("name", "color") if key in one} for one in classes]
    return options


def _presets() -> list[str]:
    return [file.stem for file in PRESETS.glob("*.yaml")]


def _files_of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: options[key] for key in ("images", "labels", "list_file", "splits") if key in options}


def _scan(root: str, pairs: Pairs, values: LabelValues) -> tuple[np.ndarray, np.ndarray, bool]:
    """Checks that each picture is whole and of its label's size, then reads each label for values of no class.

    Returns the (N, 2) sizes, (N,) bool, whether the picture is to be turned upright to fit its label, and whether any
    pixel has a class. Raises
    DataError with the first file that is wrong; sizes, which takes headers alone, are looked at for all files first.
    """
    images, labels = ([os.path.join(root, os.fsdecode(p)) for p in paths] for paths in (pairs.images, pairs.labels))
    sizes, upright = np.zeros((len(pairs), 2), np.int32), np.ones(len(pairs), bool)

    def measure(index: int) -> None:
        header, size = check_image(images[index]), label_size_of(labels[index])
        if size not in (header.upright_size, header.size):
            (height, width), (h, w) = header.upright_size, size
            raise DataError(
                f"{images[index]} has {width} x {height} pixels, but its label {labels[index]} has {w} x {h}. "
                "One of them was resized, or belongs to another; bring the label to the picture's size (nearest pixel)."
            )
        sizes[index], upright[index] = size, size == header.upright_size

    labelled = np.zeros(len(pairs), bool)

    def check(index: int) -> None:
        indices = values.indices(read_label(labels[index]), labels[index])
        labelled[index] = indices.min() != IGNORE

    def chunk(look: Callable[[int], None], start: int) -> int:
        stop = min(start + _CHUNK, len(pairs))
        for index in range(start, stop):
            look(index)
        return stop - start

    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as threads, progress(2 * len(pairs)) as advance:
        try:
            for look in (measure, check):
                for done in threads.map(partial(chunk, look), range(0, len(pairs), _CHUNK)):
                    advance(done)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return sizes, upright, bool(labelled.any())
