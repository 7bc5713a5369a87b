"""Terminal tables of an evaluation."""

import math
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from densevit.evaluation.metrics_file import number
from densevit.evaluation.metrics_table import metrics_table
from densevit.interfaces import Table as Rows
from densevit.terminal import table

MAX_ROWS = 40  # of a table; the report shows all rows


def evaluation_tables(
    metrics: Mapping[str, float],
    tables: Mapping[str, Mapping[str, Rows]],
    notes: Mapping[str, str] | None = None,
) -> Group:
    """The metrics and the tables of all heads, without confusion matrices.

    A table "classes" replaces the metrics of single classes. notes: a line below the table, by head.
    """
    with_classes = {head for head, head_tables in tables.items() if "classes" in head_tables}
    shown = {x: metrics[x] for x in metrics if x.count("/") < 2 or x.partition("/")[0] not in with_classes}
    parts: list[RenderableType] = [metrics_table(shown)]
    for head, head_tables in tables.items():
        for name, rows in head_tables.items():
            if len(rows) > 1 and not name.endswith("confusion"):
                parts.append(_table(f"{head}: {name}", rows))
                if name == "classes" and (notes or {}).get(head):
                    parts.append(Text((notes or {})[head], "yellow"))
    return Group(*parts)


def comparison_table(model: Mapping[str, float], file: Mapping[str, float], data: str | None) -> Group:
    """The metrics of a model and of its exported file side by side, without metrics of single classes.

    data: the data set of both evaluations; None: unknown.
    """
    pairs = ((name, value, file.get(name, math.nan)) for name, value in model.items() if name.count("/") < 2)
    rows = [[Text(name, "cyan"), *(Text(number(x)) for x in (a, b, b - a))] for name, a, b in pairs]
    title = f"Evaluation on {data}" if data else "Evaluation"
    return Group(Text(title, "bold"), table(rows, ["", "model", "file", "difference"], right=range(1, 4)))


def _table(title: str, rows: Rows) -> Group:
    header, *body = rows
    is_wide = len(header) >= 10
    lines = [
        [Text(str(first), "cyan"), *(Text(_cell(cell, 3 if is_wide else 4)) for cell in cells)]
        for first, *cells in body[:MAX_ROWS]
    ]
    numbers = range(1, len(header))
    grid = table(lines, [str(name) for name in header], right=numbers, no_wrap=numbers)
    grid.collapse_padding = is_wide  # one space between columns, to fit into 80 characters
    # A word of up to 16 characters is not divided.
    grid.columns[0].min_width = min(16, max(len(word) for first, *_ in lines for word in first.plain.split(" ")))
    more = [Text(f"... and {len(body) - MAX_ROWS} more")] if len(body) > MAX_ROWS else []
    return Group(Text(), Text(title, "bold"), grid, *more)


def _cell(value: str | int | float, digits: int) -> str:
    if isinstance(value, float):
        return number(value, digits)
    return f"{value:,}" if isinstance(value, int) else value
