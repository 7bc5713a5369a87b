"""Plots as SVG, by matplotlib: curves, confusion matrices, and what a function draws.

In a page, colours are the CSS variables of `templates/style.css`, so that a plot follows the page's light or dark
scheme; `svg_file` writes them into the file. Titles and legends of plots in a page are HTML (`html_page.SvgPlot`).
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from densevit.interfaces import Plot
from densevit.reporting.curves import downsampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 320, 170  # of a plot, in CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 24  # margins for the tick labels
FONT = 10.5
MARKED_POINTS = 16  # a curve with fewer points has markers
COLORS = {  # light, dark
    "ink": ("#1b1f24", "#e6e8ec"),
    "soft": ("#5c6570", "#9aa3b0"),
    "line": ("#dfe3e8", "#343b45"),
    "c0": ("#2463c9", "#7fb0ff"),
    "c1": ("#d9541e", "#ff9a66"),
    "c2": ("#2a9d63", "#5fd39a"),
    "c3": ("#9b4dca", "#c99bff"),
    "c4": ("#c28a00", "#f0c04c"),
    "c5": ("#c8367f", "#ff8cc0"),
    "c6": ("#008ca8", "#4fd0e8"),
    "c7": ("#7a5c3e", "#c9a47f"),
    "c8": ("#6b7785", "#aab4c0"),
    "c9": ("#6c8f1f", "#b6d75a"),
}
SERIES = 10  # colours of curves in one plot, c0 to c9
MAX_NUMBERED, MAX_NAMED = 24, 80  # classes of a matrix: with numbers, with names
MAX_NAME = 28  # characters of a name
MATRIX_WIDTH = 1000
RIGHT_COLOR, WRONG_COLOR = np.array([36, 99, 201]) / 255, np.array([196, 48, 40]) / 255
LIGHT_TEXT_FROM = 0.8  # opacity of a cell with light text
INK, SOFT, LINE = (COLORS[name][0] for name in ("ink", "soft", "line"))


def color(n: int) -> str:
    """The colour of the n-th curve in the light scheme."""
    return COLORS[f"c{n % SERIES}"][0]


def lines(
    curves: Mapping[str, Points],
    x: str = "",
    y: str = "",
    unit_axes: bool = False,
    order: Sequence[str] | None = None,
) -> str:
    """Plots curves over common axes.

    x, y: labels of the axes. unit_axes: both axes are 0 to 1. order: all names in the
    legend, which determine the colours; needed if the legend also lists curves that are not in this plot.
    """
    points = tuple((name, tuple(map(tuple, curve))) for name, curve in curves.items() if curve)
    return _lines(points, x, y, unit_axes, tuple(order or curves))


@lru_cache(maxsize=128)  # a report is written without visualizations, then again with them
def _lines(curves: tuple[tuple[str, Points], ...], x: str, y: str, unit_axes: bool, names: tuple[str, ...]) -> str:
    def draw(axes: "Axes") -> None:
        for name, points in curves:
            few = downsampled(points)
            style = "o-" if len(few) < MARKED_POINTS else "-"
            axes.plot(*zip(*few, strict=True), style, color=color(names.index(name)), linewidth=1.6, markersize=3)
        if unit_axes:
            axes.set(xlim=(0, 1), ylim=(0, 1))
        elif 0 <= (low := min((points[0][0] for _, points in curves), default=-1)) < axes.dataLim.x1 / 5:
            axes.set_xlim(left=min(0, low))
        label_axes(axes, x, y)

    return page_svg(draw, WIDTH, HEIGHT + 14 * bool(x), top=TOP + 12 * bool(y), bottom=BOTTOM + 14 * bool(x))


def heat_map(names: Sequence[str], shares: np.ndarray) -> str:
    """A confusion matrix with rows divided by their sums, (K, K): blue on the diagonal, red elsewhere.

    The opacity is the share; for red its square root, so that a few per cent are visible. Up to 24 classes have
    numbers in per cent, up to 80 have names.
    """
    count = len(names)
    numbered, named = count <= MAX_NUMBERED, count <= MAX_NAMED
    side = 30 if numbered else max(9, min(24, MATRIX_WIDTH // count)) if named else max(1, MATRIX_WIDTH // count)
    font = 10.5 if numbered else max(7.0, min(10.5, 0.8 * side))
    labels = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names]
    margin = round(max(map(len, labels), default=0) * 0.62 * font) + 12 if named else 2
    shares = np.nan_to_num(shares)
    opacity = np.where(np.eye(count, dtype=bool), shares, np.sqrt(shares))
    pixels = np.zeros((count, count, 4))
    pixels[..., :3] = np.where(np.eye(count, dtype=bool)[..., None], RIGHT_COLOR, WRONG_COLOR)
    pixels[..., 3] = opacity

    def draw(axes: "Axes") -> None:
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.grid(visible=False)
        axes.xaxis.set_ticks_position("top")
        places = range(count) if named else []
        axes.set_xticks(places, labels if named else [], rotation=90, fontsize=font)
        axes.set_yticks(places, labels if named else [], fontsize=font)
        for spine in axes.spines.values():
            spine.set(visible=True, color=LINE)
        for i, j in zip(*np.nonzero(shares), strict=True) if numbered else ():
            text = _rounded_per_cent(float(shares[i, j]))
            on_color = "#ffffff" if opacity[i, j] >= LIGHT_TEXT_FROM else INK
            axes.text(j, i, text, color=on_color, fontsize=font, ha="center", va="center")

    size = margin + side * count + 2
    return page_svg(draw, size, size, left=margin, right=2, top=margin, bottom=2, fixed=True)


def _rounded_per_cent(share: float) -> str:
    """A share in per cent, rounded; 0 and 100 only for exactly these values."""
    if share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def svg_file(title: str, plot: Plot) -> str:
    """A plot with its title and legend as an SVG file, light and dark."""
    from matplotlib.figure import Figure

    curves = {name: points for name, points in plot.curves.items() if points}
    height = HEIGHT + 40 + 16 * len(curves)
    with _style():
        figure = Figure((WIDTH / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        for n, points in enumerate(curves.values()):
            axes.plot(*zip(*downsampled(points), strict=True), color=color(n), linewidth=1.6)
        if plot.unit_axes:
            axes.set(xlim=(0, 1), ylim=(0, 1))
        figure.suptitle(title, color=INK, fontsize=FONT + 1.5)
        figure.legend(axes.lines, curves, loc="outside lower left", frameon=False, labelcolor=SOFT)
        label_axes(axes, plot.x, plot.y)
        return _as_file(_saved(figure), WIDTH, height)


def label_axes(axes: "Axes", x: str, y: str) -> None:
    """Labels the axes."""
    if x:
        axes.set_xlabel(x, color=SOFT, fontsize=FONT)
    if y:
        axes.set_title(y, color=SOFT, fontsize=FONT, loc="right", pad=3)


def page_svg(
    draw: Callable[["Axes"], None],
    width: float,
    height: float,
    left: float = LEFT,
    right: float = RIGHT,
    top: float = TOP,
    bottom: float = BOTTOM,
    fixed: bool = False,
) -> str:
    """Draws axes with margins. Returns an SVG element for a page. fixed: not scaled to the page."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure((width / 72, height / 72), dpi=72)
        sides = (width - left - right) / width, (height - top - bottom) / height
        draw(figure.add_axes((left / width, bottom / height, *sides)))
        svg = _saved(figure)
    return _for_page(svg, width, height, fixed)


def _for_page(svg: str, width: float, height: float, fixed: bool = False) -> str:
    svg = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0]), svg)
    size = f' width="{width:g}" height="{height:g}" class="fixed"' if fixed else ""
    return f'<svg viewBox="0 0 {width:g} {height:g}"{size} aria-hidden="true">{svg}</svg>'


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib's defaults with the style of the pages, ignoring the user's matplotlibrc."""
    import matplotlib  # slow to import

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser draws texts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "densevit",
    "svg.image_inline": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelpad": 2,
    "axes.formatter.useoffset": False,
    "font.size": FONT,
    "grid.color": LINE,
    "grid.linewidth": 1.0,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "xtick.labelsize": FONT,
    "ytick.labelsize": FONT,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
}


def _saved(figure: "Figure") -> str:
    """The content of the figure's SVG, without metadata and without styles, which would apply to the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    return re.sub(r"<metadata>.*?</metadata>|<style type.*?</style>", "", svg, flags=re.DOTALL)


def _page_tag(tag: str) -> str:
    """Replaces the colours in a tag by the page's variables."""
    for name, (light, _) in COLORS.items():
        tag = tag.replace(light, f"var(--{name})")
    return tag.replace("xlink:href", "href")


def _as_file(svg: str, width: float, height: float) -> str:
    """An SVG file with light colours, for all viewers, and rules for the dark scheme."""
    dark = "".join(
        f'[style*="{css_property}: {light}"] {{ {css_property}: {dark} !important; }} '
        for light, dark in COLORS.values()
        for css_property in ("fill", "stroke")
    )
    rules = f"text {{ font-family: system-ui, sans-serif !important; }} @media (prefers-color-scheme: dark) {{ {dark}}}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"><style>{rules}</style>{svg}</svg>\n'
    )
