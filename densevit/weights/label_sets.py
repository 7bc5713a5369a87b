"""Classes of another project's classifier, from the number of rows and the names in the metadata."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

from densevit.config import yaml_io
from densevit.data.datasets.coco_json import color_of
from densevit.interfaces import Class

_BY_ROWS = {150: "ade20k", 19: "cityscapes"}  # what segmentation models are published for


def segmentation_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of a semantic classifier.

    rows: their number. names: of the rows, if known. 150 rows are ADE20K's classes and 19 Cityscapes', with the data
    set's order and names, unless less than half of `names` agree (projects differ in a few). Otherwise a class has the
    name of its row, or its number, and its row as file id.
    """
    if rows in _BY_ROWS:
        known = preset_classes(_BY_ROWS[rows])
        alike = sum(_plain(one.name) == _plain(name) for one, name in zip(known, names, strict=False))
        if len(names) != rows or 2 * alike >= rows:
            return known
    return tuple(replace(one, thing=False) for one in numbered_classes(rows, names))


def numbered_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """A class for each row, with its row as file id: called by its name if there is one for each, else `class 0`."""
    named = len(names) == rows
    return tuple(Class(names[i].strip() if named else f"class {i}", i, color_of(i)) for i in range(rows))


@cache
def coco_classes() -> tuple[Class, ...]:
    """COCO's 80 thing classes by ascending file id, 1 ... 90."""
    ids = [(one.file_id + 1, one.name) for one in preset_classes("coco_stuff")]  # COCO's ids less 1; stuff above 91
    things = sorted((file_id, name) for file_id, name in ids if file_id <= 90)
    return tuple(Class(name, file_id, color_of(i)) for i, (file_id, name) in enumerate(things))


@cache
def coco_panoptic_classes() -> tuple[Class, ...]:
    """COCO panoptic's 133 classes by ascending file id: 80 things, 1 ... 90, and 53 kinds of stuff, 92 ... 200."""
    stuff = _COCO_STUFF.items()
    first = len(coco_classes())
    return coco_classes() + tuple(
        Class(name, file_id, color_of(i), thing=False) for i, (file_id, name) in enumerate(stuff, first)
    )


_COCO_STUFF = {
    92: "banner", 93: "blanket", 95: "bridge", 100: "cardboard", 107: "counter", 109: "curtain", 112: "door-stuff",
    118: "floor-wood", 119: "flower", 122: "fruit", 125: "gravel", 128: "house", 130: "light", 133: "mirror-stuff",
    138: "net", 141: "pillow", 144: "platform", 145: "playingfield", 147: "railroad", 148: "river", 149: "road",
    151: "roof", 154: "sand", 155: "sea", 156: "shelf", 159: "snow", 161: "stairs", 166: "tent", 168: "towel",
    171: "wall-brick", 175: "wall-stone", 176: "wall-tile", 177: "wall-wood", 178: "water-other", 180: "window-blind",
    181: "window-other", 184: "tree-merged", 185: "fence-merged", 186: "ceiling-merged", 187: "sky-other-merged",
    188: "cabinet-merged", 189: "table-merged", 190: "floor-other-merged", 191: "pavement-merged",
    192: "mountain-merged", 193: "grass-merged", 194: "dirt-merged", 195: "paper-merged", 196: "food-other-merged",
    197: "building-other-merged", 198: "rock-merged", 199: "wall-other-merged", 200: "rug-merged",
}  # fmt: skip


@cache
def preset_classes(preset: str) -> tuple[Class, ...]:
    """The classes of a `data.preset`."""
    from densevit.data.datasets.label_values import LabelValues  # imports OpenCV, which few checkpoints need

    file = resources.files("densevit.data.datasets") / "presets" / f"{preset}.yaml"
    options = yaml_io.parse(file.read_text("utf-8"), file.name)
    keys = ("classes", "ignore_index", "reduce_zero_label", "ignore_colors")
    return LabelValues(**{key: options[key] for key in keys if key in options}).classes


def _plain(name: str) -> str:
    """The first of several names of a class, in lower case."""
    return name.replace(";", ",").split(",")[0].strip().casefold()
