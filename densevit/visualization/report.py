"""report.html: a self-contained page with the metrics, curves, images, error analysis and config of a run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from densevit.config.data_schema import data_title
from densevit.config.yaml_io import parse
from densevit.data.image_names import drawing_name
from densevit.errors import ConfigError, DataError
from densevit.evaluation import metrics_file, tables_file
from densevit.interfaces import Plot
from densevit.visualization import confusion
from densevit.visualization.curves import Points, curve_svg, legend, plot_svg, read_curves
from densevit.visualization.html_page import image_figure, missing, table_html, write_page
from densevit.visualization.tables import by_class, number, overall

BEST, WORST = "best", "worst"  # folders of drawn images
MAX_ROWS = 400  # of a table
MAX_BYTES = 4_700_000  # of a page
MAX_IMAGE_BYTES = 2_600_000  # of all images; base64 adds a third
MAX_CONFUSION_BYTES = 1_500_000  # of all confusion matrices
MAX_IMAGES = 24
EVALUATION = "evaluation.json"
"""The file that distinguishes the folder of an evaluation from the folder of a run."""


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes `report.html` from the files of a run or an evaluation: config.yaml, metrics.json, metrics.csv, the
    evaluators' tables and plots, and predictions/.

    If a file is missing, as after an interrupted run, the page says so in place of its content. out: another file to
    write. Returns the page's path.
    """
    run_dir = Path(run_dir)
    config, is_evaluation = text_of(run_dir / "config.yaml"), (run_dir / EVALUATION).is_file()
    heads = heads_of(run_dir, config)
    images = sorted_images(run_dir / "predictions")
    first = [
        ("Metrics", _metrics(run_dir, _has_no_heads(config), heads)),
        *([] if is_evaluation else [("Curves", _curves(run_dir / "metrics.csv"))]),
    ]
    last = [
        *_analyses(run_dir, heads),
        *[(f"Confusion: {head}", html) for head, html in confusions(run_dir, heads, MAX_CONFUSION_BYTES).items()],
        ("Config", f"<pre>{escape(config)}</pre>" if config else _missing("config.yaml")),
    ]
    most = image_bytes(first + last, min(len(images), MAX_IMAGES) + len(extremes_of(run_dir)))
    sections = [
        *first,
        *_extremes(run_dir, heads, most),
        *([] if _has_no_heads(config) else [("Visualizations", _visualizations(run_dir / "predictions", most))]),
        *last,
    ]
    path = run_dir / "report.html" if out is None else out
    write_page(path, run_dir.resolve().name, about(run_dir, config), sections, confusion.STYLE, contents=True)
    return path


def image_bytes(sections: Sequence[tuple[str, str]], images: int) -> int:
    """The number of bytes that each image may have, given the other sections of the page."""
    used = sum(len(html.encode()) for _, html in sections)
    return max(0, min(MAX_IMAGE_BYTES, (MAX_BYTES - used) * 3 // 4)) // max(1, images)


def heads_of(run_dir: Path, config: str) -> list[str]:
    """The names of the heads, longest first, read from the config or the metrics."""
    names: set[str] = set()
    with suppress(ConfigError, KeyError, TypeError):
        names |= set(parse(config, "config.yaml")["heads"])
    with suppress(DataError):
        names |= set(metrics_file.by_head(metrics_file.read(run_dir / "metrics.json")))
    return sorted(map(str, names - {""}), key=lambda name: (-len(name), name))


def tables_of(run_dir: Path, heads: Sequence[str]) -> dict[str, dict[str, list[list[str]]]]:
    """The tables NAME-HEAD.csv by head and name, without tables of images; a damaged table has its error as its only
    cell."""
    tables: dict[str, dict[str, list[list[str]]]] = {}
    for path in sorted(run_dir.glob("*-*.csv")):
        name, head = _parts(path.stem, heads)
        if name == tables_file.IMAGES:
            continue
        try:
            rows = tables_file.read(path)
        except DataError as error:
            rows = [[str(error)]]
        tables.setdefault(head, {})[name] = rows
    return tables


def _parts(stem: str, heads: Sequence[str]) -> tuple[str, str]:
    """Splits NAME-HEAD into name and head."""
    for head in heads:
        if stem.endswith(f"-{head}"):
            return stem.removesuffix(f"-{head}"), head
    name, _, head = stem.partition("-")
    return name, head


def _analyses(run_dir: Path, heads: Sequence[str]) -> list[tuple[str, str]]:
    """A section for each head with tables or plots."""
    try:
        plots = tables_file.read_plots(run_dir)
    except DataError as error:
        return [("Analysis", missing(str(error)))]
    tables, sections = tables_of(run_dir, heads), []
    for head in [*tables, *(head for head in plots if head not in tables)]:
        parts = []
        for name, rows in sorted(tables.get(head, {}).items(), key=lambda item: "errors" not in item[0]):
            if not name.endswith("confusion") and len(rows) > 1:
                content = table_html(rows[: MAX_ROWS + 1], relative=name.endswith("errors"))
                more = f"<p>{MAX_ROWS} of {len(rows) - 1} rows.</p>" if len(rows) > MAX_ROWS + 1 else ""
                parts.append(f"<h3>{escape(name)}</h3>{content}{more}")
        drawn = [plot_figure(name, plot) for name, plot in plots.get(head, {}).items()]
        if drawn:
            parts.insert(1, f'<h3>plots</h3><div class="curves">{"".join(drawn)}</div>')
        if parts:
            sections.append((f"Analysis: {head}", "".join(parts)))
    return sections


def plot_figure(name: str, plot: Plot) -> str:
    """A plot with its legend, if it has several curves."""
    curves = {curve: points for curve, points in plot.curves.items() if points}
    if not curves:
        return missing(f"{name}: no points.")
    keys = legend(curves) if len(curves) > 1 else ""
    return f"<figure>{plot_svg(name, curves, plot.x, plot.y, plot.whole)}{keys}</figure>"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _missing(name: str) -> str:
    return missing(f"There is no {name}: the run ended before it was written.")


def _has_no_heads(config: str) -> bool:
    """Whether the config says `heads: {}`, as for a method that trains the backbone alone."""
    try:
        return bool(parse(config, "config.yaml")["heads"] == {})
    except (ConfigError, KeyError, TypeError):
        return False


def _about_config(config: str) -> str:
    """One line with the heads, the backbone, the data set, and the method unless it is supervised."""
    try:
        sections: Any = parse(config, "config.yaml")
        heads, method = sections["heads"], sections.get("method", {"name": "supervised"})["name"]
        trained = " + ".join(head["name"] for head in heads.values()) or method
        how = f", method: {method}" if heads and method != "supervised" else ""
        data = data_title(sections["data"]["name"], sections["data"].get("root"))
        return f"{trained} on {sections['backbone']['name']}, data: {data}{how}"
    except (ConfigError, KeyError, TypeError, AttributeError):
        return ""


def about(run_dir: Path, config: str) -> str:
    """One line about a run or an evaluation."""
    line = _about_config(config)
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((run_dir / EVALUATION).read_text(encoding="utf-8"))
        line = f"evaluation of {found['model']} on {found['images']:,} images; {line}"
    return line


def main_metrics(metrics: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """The first metric of each head with its name, by head."""
    heads = metrics_file.by_head(metrics)
    first = {head: next(iter(overall(values).items()), None) for head, values in heads.items()}
    return {head: pair for head, pair in first.items() if pair is not None}


def _metrics(run_dir: Path, has_no_heads: bool, names: Sequence[str]) -> str:
    path = run_dir / "metrics.json"
    if not path.is_file():
        return _missing(path.name)
    try:
        metrics = metrics_file.read(path)
    except DataError as error:
        return missing(str(error))
    if not metrics:
        why = ", or its method has no validation loss" if has_no_heads else ""
        return missing(f"The run ended before its first validation{why}.")
    heads = metrics_file.by_head(metrics)
    cards = "".join(
        f"<div><b>{number(value)}</b><span>{escape(f'{head} {name}'.strip())}</span></div>"
        for head, (name, value) in main_metrics(metrics).items()
    )
    tables = [f'<div class="cards">{cards}</div>', *(_head_metrics(head, overall(heads[head])) for head in heads)]
    tables_by_head = tables_of(run_dir, names).items()
    with_classes = {
        head for head, of in tables_by_head if any(rows[0][:1] == ["class"] for rows in of.values() if rows)
    }
    for head, values in heads.items():
        if head in with_classes:  # shown there
            continue
        tables += [
            f"<h3>{escape(head)}</h3>" * (not n) + _class_table(kinds) for n, kinds in enumerate(by_class(values))
        ]
    return "".join(tables)


def _head_metrics(head: str, values: Mapping[str, float]) -> str:
    """The metrics of a head in a row."""
    pairs = "".join(f"<div><span>{escape(name)}</span>{number(value)}</div>" for name, value in values.items())
    return f'<h3>{escape(head)}</h3><div class="pairs">{pairs}</div>'


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


def confusions(run_dir: Path, heads: Sequence[str], most: int) -> dict[str, str]:
    """The heat maps by head, and by kind where a head has several. most: the largest total size in bytes."""
    html_by_head = {}
    paths = sorted(run_dir.glob("*confusion-*.csv"))
    for path in paths:
        name, head = _parts(path.stem, heads)
        kind = name.removesuffix("confusion").strip("-")
        try:
            html = confusion.confusion_html(*confusion.read_confusion(path), most // len(paths))
        except DataError as error:
            html = missing(str(error))
        html_by_head[f"{head}, {kind}" if kind else head] = html
    return html_by_head


def _curves(path: Path) -> str:
    if not path.is_file():
        return _missing(path.name)
    curves = {name: points for name, points in read_curves(path).items() if not is_class_metric(name)}
    if not curves:
        return missing(f"{path.name} holds no numbers yet.")
    first = leading(curves)
    shown = "".join(f"<figure>{curve_svg(name, curves[name])}</figure>" for name in first)
    others = [item for item in _in_order(curves) if item[0] not in first]
    drawn = "".join(f"<figure>{curve_svg(name, points)}</figure>" for name, points in others)
    more = (
        f'<details><summary>{len(others)} more</summary><div class="curves">{drawn}</div></details>' if others else ""
    )
    return f'<p>Against optimiser steps; the last value is at the top right.</p><div class="curves">{shown}</div>{more}'


def leading(names: Iterable[str]) -> list[str]:
    """The most important curves: the loss, and the first metric of each head."""
    chosen: dict[str, str] = {}
    for name in names:
        group = name.partition("/")[0]
        if name == "train/loss" or ("/" in name and group not in ("train", "system")):
            chosen.setdefault(group, name)
    return list(chosen.values())


def is_class_metric(name: str) -> bool:
    return name.count("/") > 1 and not name.startswith("train/")


def _in_order(curves: Mapping[str, Points]) -> list[tuple[str, Points]]:
    """The total loss, its terms, the metrics, then curves without a head, such as the learning rate."""

    def order(name: str) -> tuple[bool, bool, bool]:
        return "/" not in name, not name.startswith("train/"), name != "train/loss"

    return sorted(curves.items(), key=lambda item: order(item[0]))


def sorted_images(folder: Path, pattern: str = "*") -> list[Path]:
    """The drawn images of a folder, without the best and worst images."""
    suffixes = (".jpg", ".jpeg", ".png")
    paths = sorted(path for path in folder.glob(f"**/{pattern}") if path.suffix.lower() in suffixes)
    return [path for path in paths if path.relative_to(folder).parts[0] not in (BEST, WORST)]


def extremes_of(run_dir: Path) -> list[Path]:
    """The drawings of the worst and the best images."""
    return [path for kind in (WORST, BEST) for path in sorted((run_dir / "predictions" / kind).glob("*.jpg"))]


def _extremes(run_dir: Path, heads: Sequence[str], most: int) -> list[tuple[str, str]]:
    """A section with the worst and the best images of each head."""
    paths, parts = extremes_of(run_dir), []
    for head in sorted({head for head in heads if any(path.name.startswith(f"{head}-") for path in paths)}):
        scores = _image_scores(run_dir / f"{tables_file.IMAGES}-{head}.csv")
        for kind in (WORST, BEST):
            own = [path for path in paths if path.parent.name == kind and path.name.startswith(f"{head}-")]
            figures = []
            for path in own:
                name = path.stem.removeprefix(f"{head}-").partition("-")[2]
                score = f": {scores[name]}" if name in scores else ""
                figures.append(image_figure(path, f"{name}{score}", most))
            if figures:
                parts.append(f'<h3>{escape(head)}: {kind}</h3><div class="images">{"".join(figures)}</div>')
    lead = "<p>By the score of each image; the prediction is beside the ground truth. Click to enlarge.</p>"
    return [("Worst and best images", lead + "".join(parts))] if parts else []


def _image_scores(path: Path) -> dict[str, str]:
    """The scores of images by the names of their files."""
    try:
        header, *rows = tables_file.read(path)
        name, score = header.index("image"), header.index("score")
        return {drawing_name(row[name]): f"{float(row[score]):.4f}" for row in rows}
    except (DataError, ValueError, IndexError):
        return {}


def _visualizations(folder: Path, most: int) -> str:
    paths = sorted_images(folder)
    if not paths:
        return _missing("predictions/*.jpg")
    more = f"<p>{MAX_IMAGES} of {len(paths)} images.</p>" if len(paths) > MAX_IMAGES else ""
    if more:  # names begin with the head's name, so evenly spaced ones include all heads
        paths = [paths[n * len(paths) // MAX_IMAGES] for n in range(MAX_IMAGES)]
    figures = [image_figure(path, path.relative_to(folder).with_suffix("").as_posix(), most) for path in paths]
    return more + f'<div class="images">{"".join(figures)}</div>'
