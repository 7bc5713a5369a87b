"""report.html: a self-contained page with the metrics, curves, images, error analysis and config of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from densevit.data.io.image_names import BEST, WORST, distinct_drawing_name, drawing_name
from densevit.errors import DataError
from densevit.evaluation import metrics_file, tables_file
from densevit.evaluation.metrics_file import by_class, number, overall
from densevit.evaluation.metrics_table import single_class
from densevit.grouping import grouped
from densevit.interfaces import Plot
from densevit.reporting import plots
from densevit.reporting.confusion_heat_map import confusion, read_confusion
from densevit.reporting.curves import Points, read_curves
from densevit.reporting.html_page import (
    Cards,
    Code,
    Folded,
    Grid,
    Heading,
    Image,
    KeyValues,
    PageElement,
    PageSection,
    SvgPlot,
    Table,
    Text,
    missing,
    table,
    write_page,
)
from densevit.reporting.run_files import (
    EVALUATION,
    about,
    extremes_of,
    has_no_heads,
    heads_of,
    sorted_images,
    split_name,
    tables_of,
    text_of,
)

MAX_ROWS = 400  # of a table
MAX_IMAGES = 24


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Writes `report.html` from the files of a run or an evaluation: config.yaml, metrics.json, metrics.csv, the
    evaluators' tables and plots, and predictions/.

    For a missing file, as after an interrupted run, the page says so. out: another file to write. Returns the page's
    path.
    """
    run_dir = Path(run_dir)
    config, is_evaluation = text_of(run_dir / "config.yaml"), (run_dir / EVALUATION).is_file()
    heads = heads_of(run_dir, config)
    has_heads = not has_no_heads(config)
    sections = [
        PageSection("Metrics", _metrics(run_dir, has_heads, heads)),
        *([] if is_evaluation else [PageSection("Curves", _curves(run_dir / "metrics.csv"))]),
        *_extremes(run_dir, heads),
        *([PageSection("Visualizations", _visualizations(run_dir / "predictions"))] if has_heads else []),
        *_analyses(run_dir, heads),
        *[PageSection(f"Confusion: {head}", parts) for head, parts in confusions(run_dir, heads).items()],
        PageSection("Config", [Code(config) if config else _missing("config.yaml")]),
    ]
    path = run_dir / "report.html" if out is None else out
    write_page(path, run_dir.resolve().name, about(run_dir, config), sections, contents=True)
    return path


def overview(run_dir: Path) -> list[PageElement]:
    """The metrics and the most important curves of a run, for a notebook."""
    config = text_of(run_dir / "config.yaml")
    metrics = _metrics(run_dir, not has_no_heads(config), heads_of(run_dir, config))
    curves = [part for part in _curves(run_dir / "metrics.csv") if not isinstance(part, Folded)]
    return [Heading(f"{run_dir.resolve().name}: {about(run_dir, config)}"), *metrics, *curves]


def _analyses(run_dir: Path, heads: Sequence[str]) -> list[PageSection]:
    """A section per head with tables or plots."""
    try:
        drawn = tables_file.read_plots(run_dir)
    except DataError as error:
        return [PageSection("Analysis", [missing(str(error))])]
    tables, sections = tables_of(run_dir, heads), []
    for head in [*tables, *(head for head in drawn if head not in tables)]:
        groups: list[list[PageElement]] = []
        for name, rows in sorted(tables.get(head, {}).items(), key=lambda item: "errors" not in item[0]):
            if not name.endswith("confusion") and len(rows) > 1:
                more = [Text(f"{MAX_ROWS} of {len(rows) - 1} rows.")] if len(rows) > MAX_ROWS + 1 else []
                content = table(rows[: MAX_ROWS + 1], relative=name.endswith("errors"))
                groups.append([Heading(name), content, *more])
        figures = [plot_part(name, plot) for name, plot in drawn.get(head, {}).items()]
        if figures:
            groups.insert(1, [Heading("plots"), Grid("plots", figures)])
        if groups:
            sections.append(PageSection(f"Analysis: {head}", [part for group in groups for part in group]))
    return sections


def plot_part(name: str, plot: Plot) -> PageElement:
    """A plot with its legend, if it has several curves."""
    curves = {curve: points for curve, points in plot.curves.items() if points}
    if not curves:
        return missing(f"{name}: no points.")
    svg = plots.lines(curves, plot.x, plot.y, plot.unit_axes)
    return SvgPlot(name, svg, legend=list(curves) if len(curves) > 1 else ())


def _missing(name: str) -> Text:
    return missing(f"There is no {name}: the run ended before it was written.")


def main_metrics(metrics: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """The name and value of the first metric of each head."""
    heads = metrics_file.by_head(metrics)
    first = {head: next(iter(overall(values).items()), None) for head, values in heads.items()}
    return {head: pair for head, pair in first.items() if pair is not None}


def _metrics(run_dir: Path, has_heads: bool, names: Sequence[str]) -> list[PageElement]:
    path = run_dir / "metrics.json"
    if not path.is_file():
        return [_missing(path.name)]
    try:
        metrics = metrics_file.read(path)
    except DataError as error:
        return [missing(str(error))]
    if not metrics:
        why = "" if has_heads else ", or its method has no validation loss"
        return [missing(f"The run ended before its first validation{why}.")]
    heads = metrics_file.by_head(metrics)
    cards = [(f"{head} {name}".strip(), number(value)) for head, (name, value) in main_metrics(metrics).items()]
    parts: list[PageElement] = [Cards(cards)]
    for head in heads:
        pairs = [(name, number(value)) for name, value in overall(heads[head]).items()]
        note = single_class(heads[head])
        parts += [Heading(head), KeyValues(pairs), *([Text(note)] if note else [])]
    tables = tables_of(run_dir, names)
    with_classes = {
        head for head, by_name in tables.items() if any(rows[0][:1] == ["class"] for rows in by_name.values() if rows)
    }
    for head, values in heads.items():
        if head not in with_classes:  # otherwise the head's tables show the classes
            classes = [_class_table(metrics) for metrics in by_class(values)]
            parts += [Heading(head), *classes] if classes else []
    return parts


def _class_table(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """One row per class, one column per metric."""
    rows = ([name, *(classes[name] for classes in metrics.values())] for name in next(iter(metrics.values())))
    return table([["class", *metrics], *rows])


def confusions(run_dir: Path, heads: Sequence[str]) -> dict[str, list[PageElement]]:
    """The heat maps by head; with several per head, by head and name."""
    parts: dict[str, list[PageElement]] = {}
    for path in sorted(run_dir.glob("*confusion-*.csv")):
        name, head = split_name(path.stem, heads)
        variant = name.removesuffix("confusion").strip("-")
        try:
            drawn = confusion(*read_confusion(path))
        except DataError as error:
            drawn = [missing(str(error))]
        parts[f"{head}, {variant}" if variant else head] = drawn
    return parts


def _curves(path: Path) -> list[PageElement]:
    if not path.is_file():
        return [_missing(path.name)]
    curves = {name: points for name, points in read_curves(path).items() if not is_class_metric(name)}
    if not curves:
        return [missing(f"{path.name} holds no numbers yet.")]
    first = leading(curves)
    further = [_curve(name, points) for name, points in _in_order(curves) if name not in first]
    return [
        Text("Against optimiser steps; the last value is at the top right."),
        Grid("plots", [_curve(name, curves[name]) for name in first]),
        *([Folded(f"{len(further)} more", [Grid("plots", further)])] if further else []),
    ]


def _curve(name: str, points: Points) -> SvgPlot:
    return SvgPlot(name, plots.lines({name: points}), note=f"{points[-1][1]:.4g}")


def leading(names: Iterable[str]) -> list[str]:
    """The most important curves: the loss, and the first metric of each head."""
    curves = grouped(
        (name.partition("/")[0], name)
        for name in names
        if name == "train/loss" or ("/" in name and not name.startswith(("train/", "system/")))
    )
    return [first for first, *_ in curves.values()]


def is_class_metric(name: str) -> bool:
    return name.count("/") > 1 and not name.startswith("train/")


def _in_order(curves: Mapping[str, Points]) -> list[tuple[str, Points]]:
    """The total loss, its terms, the metrics, then curves without a head, such as the learning rate."""
    return sorted(
        curves.items(),
        key=lambda item: ("/" not in item[0], not item[0].startswith("train/"), item[0] != "train/loss"),
    )


def _extremes(run_dir: Path, heads: Sequence[str]) -> list[PageSection]:
    """A section with the worst and the best images of each head."""
    paths = extremes_of(run_dir)
    parts: list[PageElement] = []
    for head in sorted({head for head in heads if any(path.name.startswith(f"{head}-") for path in paths)}):
        scores = _image_scores(run_dir / f"{tables_file.IMAGES}-{head}.csv")
        for rank in (WORST, BEST):
            images = []
            for path in paths:
                if path.parent.name == rank and path.name.startswith(f"{head}-"):
                    name = path.stem.removeprefix(f"{head}-").partition("-")[2]
                    images.append(Image(path, f"{name}: {scores[name]}" if name in scores else name))
            if images:
                parts += [Heading(f"{head}: {rank}"), Grid("images", images)]
    lead = "By the score of each image; prediction next to ground truth. Click to enlarge."
    lead += _thresholds(run_dir)
    return [PageSection("Worst and best images", [Text(lead), *parts])] if parts else []


def _thresholds(run_dir: Path) -> str:
    """A sentence with the score thresholds, after a space; "" without any."""
    scores = tables_file.read_thresholds(run_dir)
    listed = ", ".join(f"{score:.4g} ({head})" for head, score in scores.items())
    return f" Boxes and masks are drawn and counted from a score of {listed}." if listed else ""


def _image_scores(path: Path) -> dict[str, str]:
    """The scores of images by the names of their drawings."""
    try:
        header, *rows = tables_file.read(path)
        name, score = header.index("image"), header.index("score")
        scores = {row[name]: f"{float(row[score]):.4f}" for row in rows}
        return {
            drawing: text
            for image, text in scores.items()
            for drawing in (drawing_name(image), distinct_drawing_name(image))
        }
    except (DataError, ValueError, IndexError):
        return {}


def _visualizations(folder: Path) -> list[PageElement]:
    paths = sorted_images(folder)
    if not paths:
        return [_missing("predictions/*.jpg")]
    shown = f"{MAX_IMAGES} of {len(paths)} images." if len(paths) > MAX_IMAGES else ""
    text = f"{shown}{_thresholds(folder.parent)}".strip()
    more = [Text(text)] if text else []
    if shown:  # names begin with the head's, so evenly spaced names include all heads
        paths = [paths[n * len(paths) // MAX_IMAGES] for n in range(MAX_IMAGES)]
    images = [Image(path, path.relative_to(folder).with_suffix("").as_posix()) for path in paths]
    return [*more, Grid("images", images)]
