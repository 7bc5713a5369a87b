"""Terminal tables of an evaluation."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from densevit.evaluation.metrics_file import by_head, number, overall
from densevit.evaluation.metrics_table import metrics_table
from densevit.interfaces import Table as Rows
from densevit.terminal import table

MAX_ROWS = 40  # of a table; longer ones are in the report
MAX_LISTED = 20  # classes


def evaluation_tables(
    metrics: Mapping[str, float],
    tables: Mapping[str, Mapping[str, Rows]],
    notes: Mapping[str, str] | None = None,
) -> Group:
    """The metrics, and the tables of all heads by name, without confusion matrices.

    A table "classes" replaces the metrics of single classes. notes: a line below this table for each head.
    """
    shown: dict[str, float] = {}
    for head, values in by_head(metrics).items():
        kept = overall(values) if "classes" in tables.get(head, {}) else values
        shown |= {f"{head}/{name}" if head else name: value for name, value in kept.items()}
    parts: list[RenderableType] = [metrics_table(shown)]
    for head, of_head in tables.items():
        for name, rows in of_head.items():
            if len(rows) > 1 and not name.endswith("confusion"):
                parts.append(_table(f"{head}: {name}", rows))
                if name == "classes" and (notes or {}).get(head):
                    parts.append(Text((notes or {})[head], "yellow"))
    return Group(*parts)


def comparison_table(model: Mapping[str, float], file: Mapping[str, float], data: str | None) -> Group:
    """The metrics of a model and of its exported file side by side, without those of single classes.

    data: the data that both were evaluated on; None: unknown.
    """
    names = [f"{head}/{name}" if head else name for head, own in by_head(model).items() for name in overall(own)]
    rows = []
    for name in names:
        values = model[name], file.get(name, math.nan)
        rows.append([Text(name, "cyan"), *(Text(number(value)) for value in (*values, values[1] - values[0]))])
    title = f"Evaluation on {data}" if data else "Evaluation"
    return Group(Text(title, "bold"), table(rows, ["", "model", "file", "difference"], right=range(1, 4)))


def _table(title: str, rows: Rows) -> Group:
    header, *body = rows
    lines = [[Text(str(first), "cyan"), *(Text(_cell(cell)) for cell in cells)] for first, *cells in body[:MAX_ROWS]]
    numbers = range(1, len(header))
    grid = table(lines, [str(name) for name in header], right=numbers, no_wrap=numbers)
    grid.collapse_padding = len(header) >= 10  # one space between columns: they fit into 80 characters
    more = [Text(f"... and {len(body) - MAX_ROWS} more")] if len(body) > MAX_ROWS else []
    return Group(Text(), Text(title, "bold"), grid, *more)


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else value


def mapping_table(
    head: str, pairs: Sequence[tuple[str, str]], only_model: Sequence[str], only_data: Sequence[str]
) -> Group:
    """The mapped classes, and the unmapped classes of the model and of the data."""
    title = f"{head}: {len(pairs)} of the model's {len(pairs) + len(only_model)} classes are mapped to the data's"
    rows = []
    same = [old for old, new in pairs if old == new]
    if same:
        rows.append([Text(f"{len(same)} of the same name"), Text(_listed(same), "cyan")])
    rows += [[Text(old, "cyan"), Text(new, "cyan")] for old, new in pairs if old != new]
    if only_model:
        rows.append([Text(_listed(only_model), "yellow"), Text("not in the data: predictions count as no class")])
    if only_data:
        rows.append([Text("not in the model: not evaluated"), Text(_listed(only_data), "yellow")])
    return Group(Text(title, "bold"), table(rows, ["model", "data"], right=()), Text())


def _listed(names: Sequence[str]) -> str:
    more = f" ... ({len(names)})" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more
