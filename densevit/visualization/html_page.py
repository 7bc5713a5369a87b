"""Self-contained HTML pages: one style with light and dark colours, embedded images, no external files."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from densevit.data.io.large_images import open_image

MAX_SIDE = 1400  # of an image in a page, in pixels
MIN_SIDE = 200  # to which an image is downscaled to save bytes
ENLARGE = "onclick=\"this.classList.toggle('large')\""


def write_page(
    path: Path,
    title: str,
    about: str,
    sections: Sequence[tuple[str, str]],
    style: str = "",
    contents: bool = False,
) -> None:
    """Writes a page. about: one line of text. sections: titles as text with contents as HTML. style: additional CSS.

    contents: whether a bar with links to the sections stays at the top.
    """
    body = "".join(
        f'<section id="s{n}"><h2>{escape(name)}</h2>{content}</section>' for n, (name, content) in enumerate(sections)
    )
    links = "".join(f'<a href="#s{n}">{escape(name)}</a>' for n, (name, _) in enumerate(sections))
    bar = f"<nav>{links}</nav>" if contents else ""
    page = PAGE.format(title=escape(title), style=STYLE + style, about=escape(about), body=bar + body)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")  # file names may not be valid UTF-8


def missing(text: str) -> str:
    """A paragraph that says why content is missing."""
    return f'<p class="missing">{escape(text)}</p>'


def image_figure(path: Path, caption: str, most: int | None = None) -> str:
    """An embedded image, downscaled to MAX_SIDE, or a paragraph with the reason if it cannot be read.

    most: the largest size in bytes; a larger image is downscaled further. A click enlarges the image.
    """
    try:
        source = f"data:image/jpeg;base64,{base64.b64encode(_jpeg(path, most)).decode()}"
    except OSError as error:  # an incomplete file of a killed run
        return missing(f"{caption}: {error}")
    caption = escape(caption)
    return f'<figure><img src="{source}" alt="{caption}" {ENLARGE}><figcaption>{caption}</figcaption></figure>'


def _jpeg(path: Path, most: int | None) -> bytes:
    with open_image(path) as image:
        image.load()
        if image.format == "JPEG" and max(image.size) <= MAX_SIDE and path.stat().st_size <= (most or math.inf):
            return path.read_bytes()
        small = image.convert("RGB")
        side, quality = MAX_SIDE, 90
        while True:
            small.thumbnail((side, side))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=quality)
            if most is None or buffer.tell() <= most or side < MIN_SIDE:
                return buffer.getvalue()
            side, quality = round(0.8 * max(small.size)), 80


def table_html(rows: Sequence[Sequence[str]], relative: bool = False, best: Sequence[Sequence[int]] = ()) -> str:
    """A table of texts. The first row is the header; cells of numbers have at most four decimals.

    Columns of fractions 0 ... 1 have bars. relative: bars relative to the largest fraction. best: for each
    row below the header, the columns in bold.
    """
    header, *body = [[str(cell) for cell in row] for row in rows]
    columns = [[_fraction(row[n]) if n < len(row) else None for row in body] for n in range(len(header))]
    bars = {}
    for n, values in enumerate(columns[1:], start=1):
        known = [value for value in values if value is not None and value == value]
        if known and None not in values and all(0 <= value <= 1 for value in known):
            bars[n] = max(known) if relative else 1.0
    if relative and bars:
        bars = dict.fromkeys(bars, max(bars.values()) or 1.0)
    lines = ["".join(f"<th>{escape(name)}</th>" for name in header)]
    for number, row in enumerate(body):
        bold = best[number] if number < len(best) else ()
        cells = [_cell(cell, bars.get(n), n in bold) for n, cell in enumerate(row[1:], start=1)]
        lines.append("".join([f"<td>{escape(name)}</td>" for name in row[:1]] + cells))
    return f'<div class="wide"><table class="classes">{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _cell(text: str, scale: float | None, bold: bool) -> str:
    value = _fraction(text)
    if value is not None:
        shown = "–" if value != value else f"{value:.4f}"
    else:
        shown = f"{int(text):,}" if text.lstrip("-").isdigit() and len(text) < 16 else escape(text)
    shown = f"<b>{shown}</b>" if bold else shown
    if scale is None or value is None:
        return f"<td>{shown}</td>"
    share = 100 * min(max(value / scale, 0), 1) if value == value else 0
    return f'<td class="bar" style="--share: {share:.1f}%">{shown}</td>'


def _fraction(text: str) -> float | None:
    """The number of a text with a decimal point, or nan."""
    if text.lstrip("-").isdigit():
        return None
    try:
        return float(text)
    except ValueError:
        return None


STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #5c6570; --line: #dfe3e8; --paper: #f6f7f9; --card: #fff; --blue: #2463c9; --tint: #dbe7fb;
  --c0: #2463c9; --c1: #d9541e; --c2: #2a9d63; --c3: #9b4dca; --c4: #c28a00; --c5: #c8367f; --c6: #008ca8;
  --c7: #7a5c3e; --c8: #6b7785; --c9: #6c8f1f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e8ec; --soft: #9aa3b0; --line: #343b45; --paper: #121519; --card: #1b1f25;
    --blue: #7fb0ff; --tint: #24405f;
    --c0: #7fb0ff; --c1: #ff9a66; --c2: #5fd39a; --c3: #c99bff; --c4: #f0c04c; --c5: #ff8cc0; --c6: #4fd0e8;
    --c7: #c9a47f; --c8: #aab4c0; --c9: #b6d75a;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 3rem; }
body { margin: 1.5rem auto; max-width: 1280px; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
body { background: var(--paper); color: var(--ink); }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 .75rem; font-size: 1.2rem; }
h3 { margin: 1.25rem 0 .4rem; font-size: 1rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 1rem 1.25rem 1.25rem; margin: 1rem 0; }
section > :last-child { margin-bottom: 0; }
nav { position: sticky; top: 0; z-index: 5; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; padding: .5rem 0; }
nav { background: var(--paper); border-bottom: 1px solid var(--line); font-size: 14px; }
a { color: var(--blue); text-decoration: none; }
a:hover { text-decoration: underline; }
summary { cursor: pointer; color: var(--blue); margin: .5rem 0; }
.about, .missing, figcaption { color: var(--soft); }
.about { margin: .15rem 0 .75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
tr:last-child > td { border-bottom: 0; }
.classes { margin-top: .5rem; }
.classes :is(th, td):first-child { text-align: left; }
.bar { min-width: 6rem; background: linear-gradient(to right, var(--tint) var(--share), transparent var(--share)); }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin-bottom: 1rem; }
.cards div { border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; min-width: 8rem; }
.cards b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 13px; }
.pairs { display: flex; flex-wrap: wrap; gap: .35rem 1.5rem; font-variant-numeric: tabular-nums; }
.pairs span { color: var(--soft); margin-right: .45rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; }
.curves, .images { display: grid; gap: 1rem; align-items: start; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.images { grid-template-columns: repeat(auto-fill, minmax(min(380px, 100%), 1fr)); }
img, svg { width: 100%; display: block; }
img { border-radius: 6px; cursor: zoom-in; }
img.large { position: fixed; inset: 0; z-index: 9; width: 100vw; height: 100vh; object-fit: contain; }
img.large { background: var(--paper); border-radius: 0; cursor: zoom-out; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg .title { font-size: 12px; fill: var(--ink); }
svg .last { fill: var(--blue); }
svg .last, svg .y { text-anchor: end; }
svg .x { text-anchor: middle; }
svg .grid { stroke: var(--line); }
svg .curve { fill: none; stroke: var(--c); stroke-width: 1.6; }
svg .point { fill: var(--c); }
svg { --c: var(--c0); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); } .c8 { --c: var(--c8); } .c9 { --c: var(--c9); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .2rem 0; font-size: 13px; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; }
.legend i { background: var(--c); }
pre { overflow-x: auto; margin: 0; padding: 1rem; border: 1px solid var(--line); border-radius: 6px; font-size: 13px; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="about">{about}</p>
{body}
</body>
</html>
"""
