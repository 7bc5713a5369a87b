"""Classes of another project's classifier, from its number of rows and the names in its metadata."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

from densevit.interfaces import Class, color_of

_BY_ROWS = {150: "ade20k", 19: "cityscapes"}  # data sets of published segmentation models
_CITYSCAPES_THINGS = 24  # the first of their file ids


def segmentation_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of a semantic classifier.

    rows: the number of classifier rows. names: the names of the rows, if known. 150 rows are ADE20K and 19 Cityscapes,
    with the data set's order and names, unless fewer than half of `names` agree (projects differ in a few). Otherwise
    the name of a class is its row's name or number, and the file id is the row.
    """
    if rows in _BY_ROWS and _agree(preset := preset_classes(_BY_ROWS[rows]), names):
        return preset
    return tuple(replace(c, thing=False) for c in numbered_classes(rows, names))


def panoptic_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of a panoptic classifier, as `segmentation_classes`: 133 rows are COCO panoptic, 150 ADE20K panoptic,
    19 Cityscapes. For any other number of rows all classes are things, since a checkpoint does not tell things from
    stuff.
    """
    preset = {133: coco_panoptic_classes, 150: ade20k_panoptic_classes, 19: cityscapes_panoptic_classes}.get(rows)
    return preset() if preset is not None and _agree(preset(), names) else numbered_classes(rows, names)


def instance_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of an instance classifier: 80 rows are COCO, 100 the things of ADE20K panoptic, 365 Objects365, and
    366 Objects365 with a row for each file id from 0, where 0 is no class.
    """
    preset = {
        80: coco_classes(),
        100: tuple(c for c in ade20k_panoptic_classes() if c.thing),
        365: objects365_classes(),
        366: (Class("None", 0, color_of(0)), *objects365_classes()),
    }.get(rows)
    return preset if preset is not None and _agree(preset, names) else numbered_classes(rows, names)


def numbered_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """One class per row, whose file id is the row and whose name is the row's, if all have one, else `class 0`."""
    named = len(names) == rows
    return tuple(Class(names[i].strip() if named else f"class {i}", i, color_of(i)) for i in range(rows))


@cache
def coco_classes() -> tuple[Class, ...]:
    """COCO's 80 thing classes by ascending file id, 1 ... 90."""
    ids = [(c.file_id + 1, c.name) for c in preset_classes("coco_stuff")]  # COCO's ids less 1; stuff above 91
    things = sorted((file_id, name) for file_id, name in ids if file_id <= 90)
    return tuple(Class(name, file_id, color_of(i)) for i, (file_id, name) in enumerate(things))


@cache
def objects365_classes() -> tuple[Class, ...]:
    """Objects365's 365 classes (version 2, Shao et al. 2019) by ascending file id, 1 ... 365.

    15 misspelled names of its annotations are corrected, as in published checkpoints: `Bakset` is `Basket`.
    """
    names = (resources.files("densevit.layouts") / "objects365.txt").read_text("utf-8").splitlines()
    return tuple(Class(name, file_id, color_of(file_id)) for file_id, name in enumerate(names, 1))


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
def cityscapes_panoptic_classes() -> tuple[Class, ...]:
    """Cityscapes' 19 classes: 11 kinds of stuff and 8 things."""
    return tuple(replace(c, thing=c.file_id >= _CITYSCAPES_THINGS) for c in preset_classes("cityscapes"))


@cache
def ade20k_panoptic_classes() -> tuple[Class, ...]:
    """ADE20K's 150 classes by file id, 0 ... 149, with the names of Mask2Former's prepare_ade20k_pan_seg.py: 100 things
    and 50 kinds of stuff.
    """
    return tuple(
        replace(c, name=_ADE20K_NAMES.get(i, c.name), file_id=i, thing=i not in _ADE20K_STUFF)
        for i, c in enumerate(preset_classes("ade20k"))
    )


_ADE20K_NAMES = {  # where they differ from the preset
    8: "window", 37: "tub", 38: "rail", 87: "street lamp", 89: "tv", 90: "plane", 92: "clothes", 109: "pool",
    113: "falls", 138: "trash can",
}  # fmt: skip
_ADE20K_STUFF = {
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77, 79,
    84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145,
}  # fmt: skip


@cache
def preset_classes(preset: str) -> tuple[Class, ...]:
    """The classes of a `data.preset`."""
    from densevit.config import yaml_io
    from densevit.data.datasets.label_values import Ignored, LabelValues  # imports OpenCV, which few checkpoints need

    file = resources.files("densevit.data.datasets") / "presets" / f"{preset}.yaml"
    options = yaml_io.parse(file.read_text("utf-8"), file.name)
    return LabelValues(options["classes"], Ignored(**options.get("ignore", {}))).classes


def _agree(classes: Sequence[Class], names: Sequence[str]) -> bool:
    """Whether at least half of the names match; True if there is not one name per class."""
    alike = sum(_plain(c.name) == _plain(name) for c, name in zip(classes, names, strict=False))
    return len(names) != len(classes) or 2 * alike >= len(classes)


def _plain(name: str) -> str:
    """The first of several names of a class, in lower case."""
    return name.replace(";", ",").split(",")[0].strip().casefold()
