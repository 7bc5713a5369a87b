"""Text in drawn images: matplotlib's DejaVu Sans, and system fonts for characters that it lacks."""

import importlib
import unicodedata
from collections.abc import Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

from densevit.errors import warn_once

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

Color = tuple[int, int, int]

_UNUSABLE = ("lastresort", "blank")  # fonts that show each character as a box or not at all
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif", "condensed")


def text_width(text: str, size: int) -> float:
    """Returns the width of a text in pixels."""
    return sum(_font(path, size).getlength(part) for part, path in _runs(text))


def line_height(size: int) -> int:
    """Returns the height in pixels of a line with equal margins above and below its letters."""
    _, top, _, bottom = _font(_default(), size).getbbox("Ågjy")
    return round(bottom + top)


def draw_text(drawing: ImageDraw.ImageDraw, left: float, middle: float, text: str, size: int, color: Color) -> None:
    """Draws a line of text. middle: the vertical centre of the line."""
    ascent, descent = _font(_default(), size).getmetrics()
    baseline = middle + (ascent - descent) / 2
    for part, path in _runs(text):
        font = _font(path, size)
        drawing.text((left, baseline), part, fill=color, font=font, anchor="ls")
        left += font.getlength(part)


def drawable_names(names: Mapping[int, str]) -> dict[int, str]:
    """Replaces class names with characters that no installed font has by their indices, and warns about them once.

    names: class names by index.
    """
    missing = {index: name for index, name in names.items() if not _is_drawable(name)}
    if missing:
        listed = ", ".join(f"{index} ({name})" for index, name in missing.items())
        warn_once(
            f"No installed font has the characters of some class names, so drawn images show the index of the class: "
            f"{listed}. Fix: install a font for this script, such as Noto (Debian and Ubuntu: apt-get install "
            "fonts-noto-core fonts-noto-cjk)."
        )
    return {index: str(index) if index in missing else name for index, name in names.items()}


@cache
def _is_drawable(text: str) -> bool:
    return all(_path_of(character) is not None for character in _composed(text))


@cache
def _runs(text: str) -> tuple[tuple[str, str], ...]:
    """Splits a text into runs, each with the path of its font. Characters in no font get DejaVu Sans."""
    paths: list[str] = []
    composed = _composed(text)
    for character in composed:
        previous = paths[-1] if paths else _default()
        continues = character.isspace() or unicodedata.combining(character) or not character.isprintable()
        paths.append(previous if continues else _path_of(character) or _default())
    runs = groupby(zip(composed, paths, strict=True), key=lambda pair: pair[1])
    return tuple(("".join(character for character, _ in run), path) for path, run in runs)


def _composed(text: str) -> str:
    """Composes letters (NFC): folder names on macOS store a letter and its accent as two characters."""
    return unicodedata.normalize("NFC", text)


@cache
def _path_of(character: str) -> str | None:
    """Returns the font of a character: DejaVu Sans, or else the first system font with this character, or None."""
    if character.isascii() or not character.isprintable() or _has(_default(), character):
        return _default()
    return next((path for path in _system_fonts() if _has(path, character)), None)


@cache
def _default() -> str:
    import matplotlib  # late: it takes time to import

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _system_fonts() -> tuple[str, ...]:
    """Returns the paths of installed fonts, upright sans-serif fonts of regular weight first."""
    importlib.import_module("matplotlib")  # before its modules, which several threads import
    from matplotlib.font_manager import findSystemFonts  # late: it searches the system's folders

    paths = [path for path in findSystemFonts() if not any(word in Path(path).stem.lower() for word in _UNUSABLE)]
    return tuple(sorted(paths, key=_order))


def _order(path: str) -> tuple[int, str]:
    stem = Path(path).stem.lower()
    return sum(style in stem for style in _STYLES), stem


def _has(path: str, character: str) -> bool:
    font = _characters(path)
    return font is not None and font.get_char_index(ord(character)) != 0


@cache
def _characters(path: str) -> "FT2Font | None":
    """Reads a font by matplotlib; None if it is unreadable or not scalable, like emoji fonts of bitmaps."""
    importlib.import_module("matplotlib")  # before its modules, which several threads import
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        _font(path, 12)
    except (OSError, RuntimeError):
        return None
    return font if font.scalable else None


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
