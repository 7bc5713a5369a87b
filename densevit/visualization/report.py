"""report.html: a self-contained page with the metrics, visualizations, curves and config of a run."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from densevit.config.yaml_io import parse
from densevit.data.io.large_images import open_image
from densevit.errors import ConfigError, DataError
from densevit.evaluation import metrics_file
from densevit.visualization import confusion
from densevit.visualization.curves import Points, curve_svg, read_curves
from densevit.visualization.tables import by_class, number, overall

MAX_SIDE = 1400  # of an image in the page, in pixels
MAX_IMAGES = 24


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` from a run's config.yaml, metrics.json, confusion-*.csv, metrics.csv and predictions/.

    Missing files, as after an interrupted run, are named in place of their content. Returns the page's path.
    """
    run_dir = Path(run_dir)
    name = run_dir.resolve().name
    config = _text(run_dir / "config.yaml")
    drawn = [("Visualizations", _visualizations(run_dir / "predictions"))]
    sections = [
        ("Metrics", _metrics(run_dir / "metrics.json", _has_no_heads(config))),
        *[(f"Confusion: {head}", html) for head, html in _confusions(run_dir).items()],
        *([] if _has_no_heads(config) else drawn),
        ("Curves", _curves(run_dir / "metrics.csv")),
        ("Config", f"<pre>{escape(config)}</pre>" if config else _missing("config.yaml")),
    ]
    body = "".join(f"<section><h2>{escape(title)}</h2>{content}</section>" for title, content in sections)
    page = PAGE.format(title=escape(name), style=STYLE + confusion.STYLE, about=escape(_about(config)), body=body)
    path = run_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _missing(name: str) -> str:
    return f'<p class="missing">There is no {escape(name)}: the run ended before it was written.</p>'


def _has_no_heads(config: str) -> bool:
    """Whether the config says `heads: {}`, as for a method that trains the backbone alone."""
    try:
        return bool(parse(config, "config.yaml")["heads"] == {})
    except (ConfigError, KeyError, TypeError):
        return False


def _about(config: str) -> str:
    """One line with the heads, the backbone, the data set, and the method unless it is supervised."""
    try:
        sections: Any = parse(config, "config.yaml")
        heads, method = sections["heads"], sections.get("method", {"name": "supervised"})["name"]
        trained = " + ".join(head["name"] for head in heads.values()) or method
        how = f", method: {method}" if heads and method != "supervised" else ""
        return f"{trained} on {sections['backbone']['name']}, data: {sections['data']['name']}{how}"
    except (ConfigError, KeyError, TypeError, AttributeError):
        return ""


def _metrics(path: Path, has_no_heads: bool) -> str:
    if not path.is_file():
        return _missing(path.name)
    try:
        metrics = metrics_file.read(path)
    except DataError as error:
        return f'<p class="missing">{escape(str(error))}</p>'
    if not metrics:
        why = ", or its method has no validation loss" if has_no_heads else ""
        return f'<p class="missing">The run ended before its first validation{why}.</p>'
    heads = metrics_file.by_head(metrics)
    rows = "".join(_head_rows(head, overall(values)) for head, values in heads.items())
    tables = [f'<div class="wide"><table>{rows}</table></div>']
    for head, values in heads.items():
        tables += [
            f"<h3>{escape(head)}</h3>" * (not n) + _class_table(kinds) for n, kinds in enumerate(by_class(values))
        ]
    return "".join(tables)


def _head_rows(head: str, values: Mapping[str, float]) -> str:
    """Two rows: the head and the names of its metrics, and their values."""
    names = "".join(f"<th>{escape(name)}</th>" for name in values)
    cells = "".join(f"<td>{number(value)}</td>" for value in values.values())
    return f'<tr><th rowspan="2" class="head">{escape(head)}</th>{names}</tr><tr>{cells}</tr>'


def _class_table(kinds: Mapping[str, Mapping[str, float]]) -> str:
    """One row per class, one column per kind of metric."""
    titles = "".join(f"<th>{escape(kind)}</th>" for kind in kinds)
    rows = [
        f"<tr><td>{escape(name)}</td>{''.join(_bar(classes[name]) for classes in kinds.values())}</tr>"
        for name in next(iter(kinds.values()))
    ]
    return f'<div class="wide"><table class="classes"><tr><th>class</th>{titles}</tr>{"".join(rows)}</table></div>'


def _bar(value: float) -> str:
    share = 100 * min(max(value, 0), 1) if value == value else 0
    return f'<td class="bar" style="--share: {share:.1f}%">{number(value)}</td>'


def _confusions(run_dir: Path) -> dict[str, str]:
    """The heat maps, by head."""
    html_by_head = {}
    for path in sorted(run_dir.glob("confusion-*.csv")):
        try:
            html = confusion.confusion_html(*confusion.read_confusion(path))
        except DataError as error:
            html = f'<p class="missing">{escape(str(error))}</p>'
        html_by_head[path.stem.removeprefix("confusion-")] = html
    return html_by_head


def _curves(path: Path) -> str:
    if not path.is_file():
        return _missing(path.name)
    curves = {name: points for name, points in read_curves(path).items() if not _is_class_metric(name)}
    if not curves:
        return f'<p class="missing">{escape(path.name)} holds no numbers yet.</p>'
    drawn = "".join(f"<figure>{curve_svg(name, points)}</figure>" for name, points in _in_order(curves))
    return f'<p>Against optimiser steps; the last value is at the top right.</p><div class="curves">{drawn}</div>'


def _is_class_metric(name: str) -> bool:
    return name.count("/") > 1 and not name.startswith("train/")


def _in_order(curves: Mapping[str, Points]) -> list[tuple[str, Points]]:
    """The total loss, its terms, the metrics, then curves without a head, such as the learning rate."""

    def order(name: str) -> tuple[bool, bool, bool]:
        return "/" not in name, not name.startswith("train/"), name != "train/loss"

    return sorted(curves.items(), key=lambda item: order(item[0]))


def _visualizations(folder: Path) -> str:
    paths = sorted(path for path in folder.glob("**/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        return _missing("predictions/*.jpg")
    more = f"<p>{MAX_IMAGES} of {len(paths)} images.</p>" if len(paths) > MAX_IMAGES else ""
    if more:  # evenly spaced over the sorted names, which begin with the head's, to include all heads
        paths = [paths[n * len(paths) // MAX_IMAGES] for n in range(MAX_IMAGES)]
    return more + f'<div class="images">{"".join(_figures(folder, paths))}</div>'


def _figures(folder: Path, paths: Sequence[Path]) -> list[str]:
    figures = []
    for path in paths:
        caption = escape(path.relative_to(folder).with_suffix("").as_posix())
        try:
            source = f"data:image/jpeg;base64,{base64.b64encode(_jpeg(path)).decode()}"
        except OSError as error:  # an incomplete file of a killed run
            figures.append(f'<p class="missing">{caption}: {escape(str(error))}</p>')
        else:
            figures.append(f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    return figures


def _jpeg(path: Path) -> bytes:
    """The image as JPEG, downscaled if it is larger than MAX_SIDE."""
    with open_image(path) as image:
        image.load()
        if image.format == "JPEG" and max(image.size) <= MAX_SIDE:
            return path.read_bytes()
        small = image.convert("RGB")
        small.thumbnail((MAX_SIDE, MAX_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1b1f24; --soft: #5c6570; --line: #d8dce2; --paper: #fff; --blue: #2463c9; --tint: #dbe7fb;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #9aa3b0; --line: #3a404a; --paper: #16191d; --blue: #7fb0ff; --tint: #24405f; }
}
body { margin: 2rem auto; max-width: 1200px; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
body { background: var(--paper); color: var(--ink); }
h1 { margin: 0; }
h2 { margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1rem 0 .25rem; }
.about, .missing, figcaption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
.head { text-align: left; }
.classes { margin-top: 1rem; }
.classes :is(th, td):first-child { text-align: left; }
.bar { min-width: 9rem; background: linear-gradient(to right, var(--tint) var(--share), transparent var(--share)); }
figure { margin: 0; }
.curves, .images { display: grid; gap: 1rem; align-items: start; }
.curves { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.images { grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); }
img, svg { width: 100%; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
svg .title { font-size: 12px; fill: var(--ink); }
svg .last { fill: var(--blue); }
svg .last, svg .y { text-anchor: end; }
svg .x { text-anchor: middle; }
svg .grid { stroke: var(--line); }
svg .curve { fill: none; stroke: var(--blue); stroke-width: 1.6; }
svg .point { fill: var(--blue); }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); font-size: 13px; }
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
