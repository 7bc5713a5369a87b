"""Metrics as tables for the terminal."""

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from densevit.evaluation.metrics_file import by_head

METRICS_A_ROW, CLASSES_A_ROW = 6, 3


def metrics_table(metrics: Mapping[str, float]) -> Group:
    """One table a head: its metrics, then those of each class (`AP/<class name>`); a dash where nothing can be said."""
    tables = []
    for head, values in by_head(metrics).items():
        whole = {name: value for name, value in values.items() if "/" not in name}
        tables.append(_grid(head, whole, METRICS_A_ROW))
        for kind in dict.fromkeys(name.split("/")[0] for name in values if "/" in name):
            classes = {name[len(kind) + 1 :]: value for name, value in values.items() if name.startswith(f"{kind}/")}
            tables.append(_grid(f"{head}: {kind} of each class", classes, CLASSES_A_ROW))
    return Group(*tables)


def number(value: float) -> str:
    """A metric with four digits behind the point, or a dash for nan."""
    return "–" if value != value else f"{value:.4f}"


def _grid(title: str, values: Mapping[str, float], pairs: int) -> Table:
    """Name and value side by side, `pairs` of them a row, read row by row."""
    table = Table(title=Text(title, "bold"), title_justify="left", show_header=False, box=None, pad_edge=False)
    cells = [cell for name, value in values.items() for cell in (Text(name, "cyan"), Text(number(value)))]
    for _ in range(min(pairs, len(values))):
        table.add_column(overflow="fold")
        table.add_column(justify="right", no_wrap=True)
    for start in range(0, len(cells), 2 * pairs):
        table.add_row(*cells[start : start + 2 * pairs])
    return table
