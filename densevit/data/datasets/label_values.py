"""Maps the values or colours of label maps to class indices."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from densevit.data.datasets.coco_json import color_of
from densevit.errors import DataError, counted
from densevit.interfaces import IGNORE, Class
from densevit.registry.plugin_options import shown

_Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
Color = tuple[_Byte, _Byte, _Byte]
_MOST_VALUES = 2**16
_IGNORED = IGNORE + 1  # tables contain class index + 1; 0 is unknown
_BY_COLOR = (
    " Classes with a `color` and without `id` are given by colour: by the palette of indexed files, whose indices do "
    "not count, and by the values of grey files if all colours are grey. If the indices or values are the classes, "
    "give each class its `id`."
)


Value = Annotated[int, Field(strict=True, ge=0, lt=_MOST_VALUES)]


class LabelClass(BaseModel):
    """An entry of `data.classes`: the values and the colours of a class."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern=r"\S")]
    id: Value | None = None
    ids: list[Value] = []
    color: Color | None = None
    colors: list[Color] = []

    def values(self, otherwise: int) -> list[int]:
        """Returns its values. otherwise: that of a class without an id."""
        return [*([] if self.id is None else [self.id]), *self.ids] or [otherwise]

    def all_colors(self) -> tuple[Color, ...]:
        return (*([] if self.color is None else [self.color]), *self.colors)


@dataclass(frozen=True)
class Ignored:
    """Label values and colours that are not a class.

    index: a value or values; by default 255, unless a class has it. zero: 0 is "other" and ignored too, and classes
    without an id count from 1, as in ADE20K. colors: those of RGB files.
    """

    index: Value | list[Value] | None = None
    zero: bool = False
    colors: list[Color] = field(default_factory=list)


class LabelValues:
    """Converts the values of label maps to class indices.

    classes: names, or {name, id or ids, color or colors} with the values or, in RGB files, the colours of the class.
        Classes without an id have their position as value. The first id or colour is the class's file id or colour.
        If all have different colours and none an id, they are given by colour: see `by_color`.
    ignore: the values and colours that are not a class.

    by_color: whether the palette of an indexed file decides, not its indices. by_grey: whether the colours of all
    classes are also grey, so that the values of a grey file are these colours. ignores_255: whether 255 is ignored
    because no option says otherwise, and is the only ignored value.

    Raises DataError for an invalid class and for duplicate values or names.
    """

    def __init__(
        self,
        classes: Sequence[str | Mapping[str, Any]],
        ignore: Ignored | None = None,
    ) -> None:
        ignore = ignore or Ignored()
        if not 1 <= len(classes) <= IGNORE:
            raise DataError(f"data.classes has {len(classes)} classes; expected 1 to {IGNORE}.")
        written = [_class_of(one, i) for i, one in enumerate(classes)]
        ids = [one.values(i + ignore.zero) for i, one in enumerate(written)]
        colors = [one.all_colors() for one in written]
        names = [" ".join(one.name.split()) for one in written]
        _check_once("name", names)
        _check_once("id", (value for own in ids for value in own))
        known = {value for own in ids for value in own}
        values = {IGNORE} - known if ignore.index is None else np.atleast_1d(ignore.index).tolist()
        ignored = {*values, *([0] if ignore.zero else [])}
        if both := known & ignored:
            why = " (data.ignore.zero)" if ignore.zero and 0 in both else ""
            raise DataError(f"The label value {min(both)} is both that of a class in data.classes and ignored{why}.")
        self.classes = tuple(
            Class(name, own[0], shown[0] if shown else color_of(i), thing=False)
            for i, (name, own, shown) in enumerate(zip(names, ids, colors, strict=True))
        )
        self._table = np.zeros(_MOST_VALUES, np.uint16)
        for index, own in enumerate(ids):
            self._table[own] = index + 1
        self._table[sorted(ignored)] = _IGNORED
        self._colors = tuple(colors)
        has_ids = [one.id is not None or bool(one.ids) for one in written]
        all_colors = [color for own in colors for color in own]
        differ = all(colors) and len(set(all_colors)) == len(all_colors)
        self.by_color = differ and not any(has_ids) and not ignore.zero
        self.by_grey = self.by_color and all(len(set(color)) == 1 for color in all_colors)
        self._by_id = all(has_ids)
        self.ignores_255 = ignore.index is None and ignored == {IGNORE}
        self._ignored_colors = tuple(map(tuple, ignore.colors))

    def indices(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Converts the result of `read_label` for `path` to class indices, (H, W) uint8, 255 = ignore.

        Raises DataError with the file, the unknown values and the number of pixels of each.
        """
        if pixels.ndim == 3 and not any(self._colors):
            pixels = self._as_grey(pixels, path)
        if self.by_grey and pixels.dtype == np.uint8 and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if pixels.ndim == 3:
            codes = _codes(pixels)
            table = _color_table(self._colors, self._ignored_colors)
        else:
            codes, table = pixels, self._table
        # (H, W) uint16. OpenCV is five times as fast as numpy; codes are in range, so numpy need not check
        found = cv2.LUT(codes, table[:256]) if codes.dtype == np.uint8 else table.take(codes, mode="clip")
        if not found.all():
            if pixels.ndim == 3 and self._by_id and _is_grey(pixels):
                return self.indices(np.ascontiguousarray(pixels[..., 0]), path)
            raise DataError(self._unknown(codes[found == 0], path, pixels.ndim == 3, codes.size))
        return (found - 1).astype(np.uint8)

    def _as_grey(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Converts an RGB file with three equal channels to (H, W): grey values stored as colours."""
        if not _is_grey(pixels):
            raise DataError(
                f"{path} is coded in colours, but data.classes has none. Give each class its colour, as in "
                "`classes: [{name: road, color: [128, 64, 128]}, ...]`, and list colours of no class in "
                "data.ignore.colors."
            )
        return np.ascontiguousarray(pixels[..., 0])

    def _unknown(self, codes: np.ndarray, path: str, colored: bool, pixels: int) -> str:
        """Returns the message about pixels whose values no class has. codes: (N,), of a file of so many pixels."""
        values, counts = np.unique(codes, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        most = zip(values[order][:5].tolist(), counts[order].tolist(), strict=False)
        texts = [
            f"{_color_of_code(value) if colored else value} in {counted(count, 'pixel')} ({count / pixels:.1%})"
            for value, count in most
        ]
        kind = "colours" if colored else "values"
        found = f"{path} has {kind} that no class has: {', '.join(texts)}. "
        if colored:
            return found + (
                f"Known: {sum(map(len, self._colors))} colours of data.classes and {len(self._ignored_colors)} ignored."
                " Add each to a class as its `color`, or one of its `colors`, or to data.ignore.colors."
                + (_BY_COLOR if self.by_color else "")
            )
        of_classes = np.flatnonzero((self._table > 0) & (self._table < _IGNORED))
        known = f"Known: {_ranges(of_classes)}; ignored: {_ranges(np.flatnonzero(self._table == _IGNORED)) or 'none'}. "
        fix = "Add each to a class in data.classes as its `id`, or one of its `ids`, or to data.ignore.index"
        if values.tolist() == [0] or (values.tolist() == [len(self.classes)] and self._table[0] == 1):
            fix += "; if 0 is not a class and the classes count from 1, set data.ignore.zero=true"
        return f"{found}{known}{fix}."


def _class_of(written: str | Mapping[str, Any], position: int) -> LabelClass:
    """Returns a class as it is written in `data.classes`. Raises DataError for an invalid entry."""
    try:
        return LabelClass.model_validate({"name": written} if isinstance(written, str) else written)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join((f"data.classes[{position}]", *map(str, wrong["loc"])))
        raise DataError(
            f"{key}: {wrong['msg']}; found {shown(wrong['input'])}. Expected a name, or a mapping of name, id or ids (0"
            f" to {_MOST_VALUES - 1}), color or colors ([red, green, blue], each 0 to 255)."
        ) from None


def _check_once(what: str, given: Iterable[Any]) -> None:
    twice = [value for value, count in Counter(given).items() if count > 1]
    if twice:
        raise DataError(f"data.classes: the {what} {twice[0]!r} occurs twice; expected a different one for each class.")


@lru_cache(maxsize=4)
def _color_table(colors: tuple[tuple[Color, ...], ...], ignored: tuple[Color, ...]) -> np.ndarray:
    """Returns a table (2 ** 24,) uint16 by `_codes`; only memory pages with a colour are allocated. Not pickled."""
    _check_once("color", (color for own in colors for color in own))
    table = np.zeros(2**24, np.uint16)
    for index, own in enumerate(colors):
        for red, green, blue in own:
            table[red << 16 | green << 8 | blue] = index + 1
    for red, green, blue in ignored:
        if table[red << 16 | green << 8 | blue]:
            raise DataError(f"The colour {(red, green, blue)} is both that of a class in data.classes and ignored.")
    for red, green, blue in ignored:
        table[red << 16 | green << 8 | blue] = _IGNORED
    return table


def _is_grey(pixels: np.ndarray) -> bool:
    """Whether the three channels of (H, W, 3) are equal."""
    return bool((pixels[..., 1:] == pixels[..., :1]).all())


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Converts (H, W, 3) uint8 to (H, W) int32, a number for each colour."""
    red, green, blue = (pixels[..., c].astype(np.int32) for c in range(3))
    return red << 16 | green << 8 | blue


def _color_of_code(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def _ranges(values: np.ndarray) -> str:
    """Formats ascending integers as in "0 to 5, 7, 9 to 12"."""
    parts = [part for part in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(part)]
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
