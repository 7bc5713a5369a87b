"""Maps the values or colours of label maps to class indices."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from densevit.errors import DataError, counted
from densevit.interfaces import IGNORE, Class, color_of
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
        """Returns the label values of the class. otherwise: the value of a class without an id."""
        return [*([] if self.id is None else [self.id]), *self.ids] or [otherwise]

    def all_colors(self) -> tuple[Color, ...]:
        return (*([] if self.color is None else [self.color]), *self.colors)


@dataclass(frozen=True)
class Ignored:
    """Label values and colours that are not a class.

    index: a value or values; by default 255, unless a class has it. zero: 0 is ignored too, and classes without an id
    count from 1, as in ADE20K. colors: ignored colours of RGB files.
    """

    index: Value | list[Value] | None = None
    zero: bool = False
    colors: list[Color] = field(default_factory=list)


class LabelValues:
    """Converts the values of label maps to class indices.

    classes: names, or {name, id or ids, color or colors} with the values or, in RGB files, the colours of the class.
        Without an id, the value of a class is its position. The first id or colour is the class's file id or colour.
        If all classes have different colours and none an id, `by_color` is set.
    ignore: the values and colours that are not a class.

    by_color: whether the palette of an indexed file counts, not its indices. by_grey: whether, in addition, all colours
    are grey, so that the values of a grey file are these colours. ignores_255: whether 255 is the only ignored value,
    by default and not by an option.

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
        written = [_class_of(entry, i) for i, entry in enumerate(classes)]
        ids = [entry.values(i + ignore.zero) for i, entry in enumerate(written)]
        colors = [entry.all_colors() for entry in written]
        names = [" ".join(entry.name.split()) for entry in written]
        _check_once("name", names)
        _check_once("id", (value for class_ids in ids for value in class_ids))
        used_ids = {value for class_ids in ids for value in class_ids}
        values = {IGNORE} - used_ids if ignore.index is None else np.atleast_1d(ignore.index).tolist()
        ignored = {*values, *([0] if ignore.zero else [])}
        if both := used_ids & ignored:
            why = " (data.ignore.zero)" if ignore.zero and 0 in both else ""
            raise DataError(f"The label value {min(both)} is both that of a class in data.classes and ignored{why}.")
        self.classes = tuple(
            Class(name, class_ids[0], shown[0] if shown else color_of(i), thing=False)
            for i, (name, class_ids, shown) in enumerate(zip(names, ids, colors, strict=True))
        )
        self._table = np.zeros(_MOST_VALUES, np.uint16)
        for index, class_ids in enumerate(ids):
            self._table[class_ids] = index + 1
        self._table[sorted(ignored)] = _IGNORED
        self._colors = tuple(colors)
        has_ids = [entry.id is not None or bool(entry.ids) for entry in written]
        all_colors = [color for class_colors in colors for color in class_colors]
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
        # (H, W) uint16. OpenCV is five times as fast as numpy; "clip" skips numpy's check, as codes are in range
        class_codes = cv2.LUT(codes, table[:256]) if codes.dtype == np.uint8 else table.take(codes, mode="clip")
        if not class_codes.all():
            if pixels.ndim == 3 and self._by_id and _is_grey(pixels):
                return self.indices(np.ascontiguousarray(pixels[..., 0]), path)
            raise DataError(self._unknown(codes, class_codes == 0, path, pixels.ndim == 3))
        return (class_codes - 1).astype(np.uint8)

    def _as_grey(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """Converts an RGB file with three equal channels to (H, W): grey values stored as colours."""
        if not _is_grey(pixels):
            raise DataError(
                f"{path} is coded in colours, but data.classes has none. Give each class its colour, as in "
                "`classes: [{name: road, color: [128, 64, 128]}, ...]`, and list colours of no class in "
                "data.ignore.colors."
            )
        return np.ascontiguousarray(pixels[..., 0])

    def _unknown(self, codes: np.ndarray, is_unknown: np.ndarray, path: str, colored: bool) -> str:
        """Returns the message about values of no class. codes, is_unknown: (H, W)."""
        values, counts = np.unique(codes[is_unknown], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        most = zip(values[order][:5].tolist(), counts[order].tolist(), strict=False)
        texts = [
            f"{(value >> 16, value >> 8 & 255, value & 255) if colored else value} in {counted(count, 'pixel')} "
            f"({count / codes.size:.1%})"
            for value, count in most
        ]
        noun = "colours" if colored else "values"
        problem = f"{path} has {noun} that no class has: {', '.join(texts)}. "
        like_neighbours = (codes == np.roll(codes, -1, 1)) & (codes == np.roll(codes, -1, 0))  # right and lower
        if len(values) > 1 and like_neighbours[is_unknown].mean() < 0.1:
            return problem + (
                f"Of these {len(values)} {noun}, nearly all pixels are at edges, unlike their neighbours: the "
                "labels were saved as JPEG or resized with interpolation. Fix: save them again from their source as "
                "PNG, and resize them to the nearest pixel."
            )
        if colored:
            return problem + (
                f"Known: {sum(map(len, self._colors))} colours of data.classes and {len(self._ignored_colors)} ignored."
                " Add each to a class as its `color`, or one of its `colors`, or to data.ignore.colors."
                + (_BY_COLOR if self.by_color else "")
            )
        class_values = np.flatnonzero((self._table > 0) & (self._table < _IGNORED))
        ignored_values = np.flatnonzero(self._table == _IGNORED)
        known_values = f"Known: {_ranges(class_values)}; ignored: {_ranges(ignored_values) or 'none'}. "
        fix = "Add each to a class in data.classes as its `id`, or one of its `ids`, or to data.ignore.index"
        if values.tolist() == [0] or (values.tolist() == [len(self.classes)] and self._table[0] == 1):
            fix += "; if 0 is not a class and the classes count from 1, set data.ignore.zero=true"
        return f"{problem}{known_values}{fix}."


def _class_of(written: str | Mapping[str, Any], position: int) -> LabelClass:
    """Parses an entry of `data.classes`. Raises DataError if it is invalid."""
    try:
        return LabelClass.model_validate({"name": written} if isinstance(written, str) else written)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join((f"data.classes[{position}]", *map(str, wrong["loc"])))
        raise DataError(
            f"{key}: {wrong['msg']}; found {shown(wrong['input'])}. Expected a name, or a mapping of name, id or ids (0"
            f" to {_MOST_VALUES - 1}), color or colors ([red, green, blue], each 0 to 255)."
        ) from None


def _check_once(what: str, names: Iterable[Any]) -> None:
    twice = [value for value, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"data.classes: the {what} {twice[0]!r} occurs twice; expected a different one for each class.")


@lru_cache(maxsize=4)
def _color_table(colors: tuple[tuple[Color, ...], ...], ignored: tuple[Color, ...]) -> np.ndarray:
    """Returns a table (2 ** 24,) uint16 indexed by `_codes`. The kernel allocates only memory pages with a colour."""
    _check_once("color", (color for class_colors in colors for color in class_colors))
    table = np.zeros(2**24, np.uint16)
    for index, class_colors in enumerate(colors):
        for red, green, blue in class_colors:
            table[red << 16 | green << 8 | blue] = index + 1
    for red, green, blue in ignored:
        if table[red << 16 | green << 8 | blue] not in (0, _IGNORED):
            raise DataError(f"The colour {(red, green, blue)} is both that of a class in data.classes and ignored.")
        table[red << 16 | green << 8 | blue] = _IGNORED
    return table


def _is_grey(pixels: np.ndarray) -> bool:
    """Whether the three channels of (H, W, 3) are equal."""
    return bool((pixels[..., 1:] == pixels[..., :1]).all())


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Converts colours (H, W, 3) uint8 to integers (H, W) int32, 0xRRGGBB."""
    red, green, blue = (pixels[..., c].astype(np.int32) for c in range(3))
    return red << 16 | green << 8 | blue


def _ranges(values: np.ndarray) -> str:
    """Formats ascending integers as in "0 to 5, 7, 9 to 12"."""
    parts = [part for part in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(part)]
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
