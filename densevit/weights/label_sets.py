"""Which classes the rows of another project's classifier stand for, by their number and the names that came along."""

from collections.abc import Sequence
from functools import cache
from importlib import resources

from densevit.config import reading
from densevit.data.datasets.coco_annotations import color_of
from densevit.interfaces import Class

_BY_ROWS = {150: "ade20k", 19: "cityscapes"}  # what segmentation models are published for


def segmentation_classes(rows: int, names: Sequence[str] = ()) -> tuple[Class, ...]:
    """The classes of a semantic classifier with so many rows.

    names: of the rows, where they came with the tensors. 150 rows are ADE20K's classes and 19 Cityscapes', in the data
    sets' order and with their names, unless less than half of the names are theirs: projects differ in a few.
    Otherwise a class is called as its row is, or by its number, and its file id is its row.
    """
    named = len(names) == rows
    if rows in _BY_ROWS:
        known = preset_classes(_BY_ROWS[rows])
        alike = sum(_plain(one.name) == _plain(name) for one, name in zip(known, names, strict=False))
        if not named or 2 * alike >= rows:
            return known
    return tuple(Class(names[i].strip() if named else f"class {i}", i, color_of(i), thing=False) for i in range(rows))


@cache
def preset_classes(preset: str) -> tuple[Class, ...]:
    """The classes of a known data set, as `data.preset` has them."""
    from densevit.data.datasets.label_values import LabelValues  # reads OpenCV, which few checkpoints need

    file = resources.files("densevit.data") / "presets" / f"{preset}.yaml"
    options = reading.parse(file.read_text("utf-8"), file.name)
    keys = ("classes", "ignore_index", "reduce_zero_label", "ignore_colors")
    return LabelValues(**{key: options[key] for key in keys if key in options}).classes


def _plain(name: str) -> str:
    """The first of several names for one class, in small letters."""
    return name.replace(";", ",").split(",")[0].strip().casefold()
