"""Metrics as tables for the terminal."""

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from densevit.evaluation.metrics_file import by_head

METRICS_A_ROW, CLASSES_A_ROW = 6, 3
NUMBERS_A_ROW = 4  # of a table of classes with several metrics each; a class's own are never parted


def metrics_table(metrics: Mapping[str, float]) -> Group:
    """One table a head: its metrics, then those of each class (`AP/<class name>`); a dash where nothing can be said.

    Several metrics of the same classes, as IoU and accuracy, stand side by side.
    """
    tables = []
    for head, values in by_head(metrics).items():
        whole = {name: value for name, value in values.items() if "/" not in name}
        tables.append(_grid(head, whole, METRICS_A_ROW))
        for kinds in by_class(values):
            if len(kinds) == 1:
                [(kind, classes)] = kinds.items()
                tables.append(_grid(f"{head}: {kind} of each class", classes, CLASSES_A_ROW))
            else:
                tables.append(_class_table(f"{head}: each class", kinds))
    return Group(*tables)


def by_class(values: Mapping[str, float]) -> list[dict[str, dict[str, float]]]:
    """A head's metrics of classes, `KIND/CLASS`, as {kind: {class: value}}; together those that have the same classes.

    {"mIoU": 0.5, "IoU/cat": 0.5, "Acc/cat": 0.6, "AP/dog": 0.7} is [{"IoU": {"cat": 0.5}, "Acc": {"cat": 0.6}},
    {"AP": {"dog": 0.7}}].
    """
    kinds: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        kind, slash, of = name.partition("/")
        if slash:
            kinds.setdefault(kind, {})[of] = value
    together: dict[tuple[str, ...], dict[str, dict[str, float]]] = {}
    for kind, classes in kinds.items():
        together.setdefault(tuple(classes), {})[kind] = classes
    return list(together.values())


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


def _class_table(title: str, kinds: Mapping[str, Mapping[str, float]]) -> Table:
    """A row a class and a column a kind; long tables have several classes a row, read row by row."""
    classes = list(next(iter(kinds.values())))
    side_by_side = min(max(1, NUMBERS_A_ROW // len(kinds)), len(classes))
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place in range(side_by_side):
        if place:
            table.add_column()  # some room
        table.add_column("class", overflow="fold")
        for kind in kinds:
            table.add_column(Text(kind), justify="right", no_wrap=True)
    for start in range(0, len(classes), side_by_side):
        cells: list[Text] = []
        for name in classes[start : start + side_by_side]:
            room = [Text()] if cells else []
            cells += [*room, Text(name, "cyan"), *(Text(number(kinds[kind][name])) for kind in kinds)]
        table.add_row(*cells)
    return table
