"""HTML pages from jinja2 templates: one look, light and dark, for screens, phones and paper.

A page consists of sections of parts; `templates/parts.html` has a branch for each class of parts. A page is one file
with embedded images; it loads nothing. The template engine escapes all texts.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import PIL.Image

from densevit.data.io.image_opening import open_image
from densevit.reporting.plots import COLORS, SERIES

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_BYTES = 4_700_000  # of a page
MAX_IMAGE_BYTES = 2_600_000  # of all images; base64 adds a third
MAX_SIDE = 1400  # of an image in a page, in pixels
MIN_SIDE = 200  # of an image downscaled to save bytes


class PageElement:
    """A part of a section."""

    @property
    def element(self) -> str:
        """The class's name in lower case, which selects the branch of `templates/parts.html`."""
        return type(self).__name__.lower()


@dataclass
class Text(PageElement):
    """A paragraph. soft: a lighter colour, for missing content."""

    text: str
    soft: bool = False


def missing(text: str) -> Text:
    """A paragraph about missing content."""
    return Text(text, soft=True)


@dataclass
class Heading(PageElement):
    """A heading within a section."""

    text: str


@dataclass
class Code(PageElement):
    """Preformatted text."""

    text: str


@dataclass
class Cell:
    """A cell of a table.

    share: the length of the bar behind the text, 0 to 1; None: no bar. best: bold. left: left-aligned.
    """

    text: str
    share: float | None = None
    best: bool = False
    left: bool = False


@dataclass
class Table(PageElement):
    """A table with one header row."""

    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]


@dataclass
class Cards(PageElement):
    """Large numbers with their names."""

    values: Sequence[tuple[str, str]]


@dataclass
class KeyValues(PageElement):
    """Names with numbers in a row."""

    values: Sequence[tuple[str, str]]


@dataclass
class SvgPlot(PageElement):
    """svg: a plot by `densevit.reporting.plots`. note: text next to the title. legend: names of the curves."""

    title: str
    svg: str
    note: str = ""
    legend: Sequence[str] = ()


@dataclass
class Matrix(PageElement):
    """An SVG in its original size, which may be wider than the page."""

    svg: str


@dataclass
class Image(PageElement):
    """An image or its file, embedded as JPEG; a click enlarges it."""

    source: Path | PIL.Image.Image
    caption: str


@dataclass
class Grid(PageElement):
    """Parts side by side. of: plots, images, or `natural` for images in their original size."""

    of: Literal["plots", "images", "natural"]
    parts: Sequence[PageElement]


@dataclass
class Folded(PageElement):
    """Parts shown by a click on the title."""

    title: str
    parts: Sequence[PageElement]


@dataclass
class Numbered(PageElement):
    """A numbered list of texts with notes."""

    entries: Sequence[tuple[str, str]]


@dataclass
class PageSection:
    """A section of the page: a title and its parts."""

    title: str
    parts: Sequence[PageElement]


def write_page(path: Path, title: str, about: str, sections: Sequence[PageSection], contents: bool = False) -> None:
    """Writes a page. about: one line of text. contents: whether a bar with links to the sections stays at the top.

    Limits all images to MAX_IMAGE_BYTES, and the page to MAX_BYTES: downscales large images, each to an equal number of
    bytes.
    """
    values: dict[str, Any] = {"title": title, "about": about, "sections": sections, "contents": contents}
    images: list[Image] = []

    def counted(image: Image) -> str:
        images.append(image)
        return ""

    without = _render("page.html", values, counted)
    most = max(0, min(MAX_IMAGE_BYTES, (MAX_BYTES - len(without.encode(errors="replace"))) * 3 // 4))
    page = _render("page.html", values, lambda image: _embedded(image, most // max(1, len(images))))
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # file names may not be valid UTF-8


def fragment(parts: Sequence[PageElement]) -> str:
    """The parts as an HTML element with its style, for a notebook."""
    return _render("fragment.html", {"parts": parts}, lambda image: _embedded(image, MAX_IMAGE_BYTES))


def _render(template: str, values: Mapping[str, Any], embedded: Callable[[Image], str]) -> str:
    """Renders a template. embedded: returns the `src` of an image, or the error of an unreadable one."""
    return _templates().get_template(template).render(values, embedded=embedded, colors=COLORS, series=SERIES)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # slow to import

    loader = PackageLoader("densevit.reporting")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _embedded(image: Image, most: int) -> str:
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(image.source, most)).decode()}"
    except OSError as error:  # an incomplete file of a killed run
        return str(error)


def _jpeg(source: Path | PIL.Image.Image, most: int) -> bytes:
    """The file's bytes, or a smaller image of at most `most` bytes."""
    if isinstance(source, PIL.Image.Image):
        return _encoded(source.convert("RGB"), most)
    with open_image(source) as image:
        image.load()
        if image.format == "JPEG" and max(image.size) <= MAX_SIDE and source.stat().st_size <= most:
            return source.read_bytes()
        return _encoded(image.convert("RGB"), most)


def _encoded(image: PIL.Image.Image, most: int) -> bytes:
    side, quality = MAX_SIDE, 90
    while True:
        image.thumbnail((side, side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= most or side < MIN_SIDE:
            return buffer.getvalue()
        side, quality = round(0.8 * max(image.size)), 80


def table(rows: Sequence[Sequence[Any]], relative: bool = False, best: Sequence[Sequence[int]] = ()) -> Table:
    """An HTML table of texts and numbers. The first row is the header; fractions have at most four decimals.

    Columns of fractions 0 ... 1 have bars. relative: bars relative to the largest fraction of the table. best: the
    indices of the columns in bold, for each row below the header.
    """
    header, *body = [[str(cell) for cell in row] for row in rows]
    columns = [[_fraction(row[n]) if n < len(row) else None for row in body] for n in range(len(header))]
    scales = {}
    for n, values in enumerate(columns[1:], start=1):
        valid = [value for value in values if value is not None and value == value]
        if valid and None not in values and all(0 <= value <= 1 for value in valid):
            scales[n] = max(valid) if relative else 1.0
    if relative and scales:
        scales = dict.fromkeys(scales, max(scales.values()) or 1.0)
    lines = []
    for number, row in enumerate(body):
        bold = best[number] if number < len(best) else ()
        cells = [Cell(name, left=True) for name in row[:1]]
        lines.append([*cells, *(_cell(text, scales.get(n), n in bold) for n, text in enumerate(row[1:], start=1))])
    return Table([Cell(name, left=n == 0) for n, name in enumerate(header)], lines)


def text_table(rows: Sequence[Sequence[str]]) -> Table:
    """An HTML table of texts, left-aligned. The first row is the header."""
    header, *body = [[Cell(text, left=True) for text in row] for row in rows]
    return Table(header, body)


def _cell(text: str, scale: float | None, best: bool) -> Cell:
    value = _fraction(text)
    if value is None:
        shown = f"{int(text):,}" if text.lstrip("-").isdigit() and len(text) < 16 else text
        return Cell(shown, best=best)
    share = None if scale is None else min(max(value / scale, 0), 1) if value == value else 0
    return Cell("–" if value != value else f"{value:.4f}", share, best)


def _fraction(text: str) -> float | None:
    """The number in a text with a decimal point, or nan; None for other texts."""
    if text.lstrip("-").isdigit():
        return None
    try:
        return float(text)
    except ValueError:
        return None
