"""Maps the values or colours of label maps to class indices."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from densevit.data.datasets.coco_json import color_of
from densevit.errors import DataError, did_you_mean
from densevit.interfaces import IGNORE, Class

Color = tuple[int, int, int]

_KEYS = ("name", "id", "ids", "color", "colors")
_MOST_VALUES = 2**16
_IGNORED = IGNORE + 1  # tables contain class index + 1; 0 is unknown
_BY_COLOR = (
    " Classes with a `color` and without `id` are given by colour: by the palette of indexed files, whose indices do "
    "not count, and by the values of grey files if all colours are grey. If the indices or values are the classes, "
    "give each class its `id`."
)


@dataclass(frozen=True)
class Ignored:
    """Label values and colours that are not a class.

    index: a value or values; by default 255, unless a class has it. zero: 0 is "other" and ignored too, and classes
    without an id count from 1, as in ADE20K. colors: those of RGB files.
    """

    index: int | list[int] | None = None
    zero: bool = False
    colors: list[tuple[int, int, int]] = field(default_factory=list)


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
        written = [{"name": one} if isinstance(one, str) else one for one in classes]
        ids = [_ids(one, i, i + ignore.zero) for i, one in enumerate(written)]
        colors = [_colors(one, i) for i, one in enumerate(written)]
        names = [" ".join(one["name"].split()) for one in written]
        _check_once("name", names)
        _check_once("id", (value for own in ids for value in own))
        known = {value for own in ids for value in own}
        values = {IGNORE} - known if ignore.index is None else np.atleast_1d(ignore.index).tolist()
        ignored = {*values, *([0] if ignore.zero else [])}
        for value in sorted(ignored):
            _check_value(value, "data.ignore.index")
        if both := known & ignored:
            why = " (data.ignore.zero)" if ignore.zero and 0 in both else ""
            raise DataError(f"The label value {min(both)} is both that of a class in data.classes and ignored{why}.")
        self.classes = tuple(
            Class(name, own[0], shown[0] if shown else color_of(i), thing=False)
            for i, (name, own, shown) in enumerate(zip(names, ids, colors, strict=True))
        )
        self._table = np.zeros(_MOST_VALUES, np.uint16)
        for index, own in enumerate(ids):
            self._table[list(own)] = index + 1
        self._table[sorted(ignored)] = _IGNORED
        self._colors = tuple(colors)
        has_ids = [bool({"id", "ids"} & one.keys()) for one in written]
        all_colors = [color for own in colors for color in own]
        differ = all(colors) and len(set(all_colors)) == len(all_colors)
        self.by_color = differ and not any(has_ids) and not ignore.zero
        self.by_grey = self.by_color and all(len(set(color)) == 1 for color in all_colors)
        self._by_id = all(has_ids)
        self.ignores_255 = ignore.index is None and ignored == {IGNORE}
        self._ignored_colors = tuple(_color(color, "data.ignore.colors") for color in ignore.colors)

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
        listed = [
            f"{_color_of_code(value) if colored else value} in {count} pixel{'s' if count > 1 else ''} "
            f"({count / pixels:.1%})"
            for value, count in zip(values[order].tolist(), counts[order].tolist(), strict=True)
        ]
        more = f", and {len(listed) - 5} more" if len(listed) > 5 else ""
        kind = "colours" if colored else "values"
        found = f"{path} has {kind} that no class has: {', '.join(listed[:5])}{more}. "
        if colored:
            given = sum(map(len, self._colors))
            missing = [one.name for one, own in zip(self.classes, self._colors, strict=True) if not own]
            lacking = f" (none for {', '.join(missing[:5])})" if missing else ""
            return found + (
                f"Known: {given} colours of data.classes{lacking} and {len(self._ignored_colors)} ignored. Add each to "
                "a class as its `color`, or one of its `colors`, or to data.ignore.colors."
                + (_BY_COLOR if self.by_color else "")
            )
        of_classes = np.flatnonzero((self._table > 0) & (self._table < _IGNORED))
        known = f"Known: {_ranges(of_classes)}; ignored: {_ranges(np.flatnonzero(self._table == _IGNORED)) or 'none'}. "
        fix = "Add each to a class in data.classes as its `id`, or one of its `ids`, or to data.ignore.index"
        if values.tolist() == [0] or (values.tolist() == [len(self.classes)] and self._table[0] == 1):
            fix += "; if 0 is not a class and the classes count from 1, set data.ignore.zero=true"
        if self.by_color:
            fix += ". All classes are given by colour, but the file is grey: without ids, values are their positions"
        return f"{found}{known}{fix}."


def _ids(written: Mapping[str, Any], position: int, otherwise: int) -> tuple[int, ...]:
    """Returns the values of a class. Raises DataError for an invalid entry."""
    where = f"data.classes[{position}]"
    if not isinstance(written, Mapping):
        raise DataError(f"{where} is {written!r}; expected a name, or a mapping as in {{name: road, id: 7}}.")
    for key in written:
        if key not in _KEYS:
            raise DataError(f"{where}.{key} is not a key of a class.{did_you_mean(str(key), _KEYS)}")
    if not isinstance(written.get("name"), str) or not written["name"].strip():
        raise DataError(f"{where} has the name {written.get('name')!r}; expected text, as in {{name: road, id: 7}}.")
    for one, several in (("id", "ids"), ("color", "colors")):
        if one in written and several in written:
            raise DataError(f"{where} ({written['name']}) has both `{one}` and `{several}`; expected one of them.")
    ids = written.get("ids", [written.get("id", otherwise)])
    if not isinstance(ids, list | tuple) or not ids:
        raise DataError(f"{where}.ids ({written['name']}) is {ids!r}; expected a list of label values.")
    for value in ids:
        _check_value(value, f"{where} ({written['name']}): id")
    return tuple(ids)


def _check_value(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_VALUES:
        raise DataError(f"{where} is {value!r}; expected a whole number of 0 to {_MOST_VALUES - 1}.")


def _colors(written: Mapping[str, Any], position: int) -> tuple[Color, ...]:
    where = f"data.classes[{position}] ({written['name']})"
    if "colors" in written:
        if not isinstance(written["colors"], list | tuple) or not written["colors"]:
            raise DataError(f"{where}: colors is {written['colors']!r}; expected a list of [red, green, blue].")
        return tuple(_color(color, f"{where}: colors") for color in written["colors"])
    return (_color(written["color"], f"{where}: color"),) if "color" in written else ()


def _color(color: Any, where: str) -> Color:
    fits = isinstance(color, list | tuple) and len(color) == 3
    if not fits or not all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in color):
        raise DataError(f"{where} is {color!r}; expected [red, green, blue], each 0 to 255.")
    return (color[0], color[1], color[2])


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
