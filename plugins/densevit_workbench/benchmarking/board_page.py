"""The page of a board: ranks rows of one digest, and names what differs in the others."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scipy.stats import kendalltau

from densevit.atomic_io import replaced_file
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit.reporting.html_page import Cell, Table
from densevit_workbench.benchmarking.board_rows import Row, read_rows
from densevit_workbench.benchmarking.digest import differing
from densevit_workbench.reports import text_tables

BEGIN, END = "<!-- board -->", "<!-- end of board -->"
_FEWEST = 3  # backbones for an order to be compared


def write_page(folder: Path) -> Path:
    """Writes the tables of FOLDER/*.csv into FOLDER.md, between `BEGIN` and `END`; a new page has them alone."""
    path = folder.with_suffix(".md")
    text = read_text(path) if path.is_file() else f"# Board\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{path}: expected the lines {BEGIN} and {END}, between which tables are written.")
    with replaced_file(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{tables(folder)}\n\n{END}{after}", encoding="utf-8")
    return path


def tables(folder: Path) -> str:
    """The tables of all files as Markdown: a heading each, and the orders of frozen and trained backbones."""
    boards = {path.stem: read_rows(path) for path in sorted(folder.glob("*.csv"))}
    if not boards:
        raise DataError(f"{folder}: expected CSV files of a board; found none.")
    parts = [part for name, rows in boards.items() for part in (f"## {name}", *_board(rows))]
    orders = _orders(boards)
    return "\n\n".join([*parts, "## Frozen against trained", text_tables.markdown(orders)] if orders else parts)


def comparable(rows: Sequence[Row]) -> list[Row]:
    """The measured rows of the most frequent digest."""
    digests = Counter(row.texts["digest"] for row in rows if row.is_measured).most_common(1)
    return [row for row in rows if row.is_measured and row.texts["digest"] == digests[0][0]]


def ranks(rows: Sequence[Row], metric: str) -> list[int]:
    """The rank of each row by a metric. Rows whose intervals overlap share a rank, also through rows between them."""
    sign = rows[0].sign(metric)
    bounds = [sorted(sign * x for x in _interval(row, metric)) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: sign * row_value(rows[i], metric), reverse=True)
    result, lowest, rank = [0] * len(rows), float("inf"), 0
    for position, i in enumerate(order, 1):
        if bounds[i][1] < lowest:
            rank = position
        lowest = min(lowest, bounds[i][0]) if rank != position else bounds[i][0]
        result[i] = rank
    return result


def row_value(row: Row, metric: str) -> float:
    return row.scores[metric][0]


def _interval(row: Row, metric: str) -> tuple[float, float]:
    """The interval of a score, with the score itself; a score without an interval is one point."""
    value, *bounds = row.scores[metric]
    ends = [value, *(x for x in bounds if x == x)]
    return min(ends), max(ends)


def _board(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["No backbone has been measured under this protocol."]
    ranked = comparable(rows)
    protocols = {row.texts["protocol"] for row in ranked} or {row.texts["protocol"] for row in rows}
    published = [row for row in rows if not row.is_measured and row.texts["protocol"] in protocols]
    metrics = [name for name in (ranked or published)[0].main if all(name in row.scores for row in ranked)]
    by_metric = {metric: ranks(ranked, metric) for metric in metrics if ranked}
    arrows = [f"{metric} {'↓' if (ranked or published)[0].sign(metric) < 0 else '↑'}" for metric in metrics]
    lines = [["backbone", *arrows, "tokens of pixels", "parameters, M"]]
    order = range(len(ranked))
    for i in sorted(order, key=lambda i: _goodness(ranked[i], metrics[0]), reverse=True) if metrics else order:
        cells = [f"{by_metric[metric][i]}. {_score(ranked[i], metric)}" for metric in metrics]
        lines.append(_line(ranked[i], cells))
    for row in published:
        cells = [_score(row, metric) if metric in row.scores else "" for metric in metrics]
        lines.append(_line(row, cells, f" (published: {row.texts['source']})"))
    apart = [
        _wrapped(f"- {row.texts['backbone']}: {_scores(row)}; {differing(row.parts, ranked[0].parts)}", "  ")
        for row in rows
        if row not in [*ranked, *published]
    ]
    shown = [_table(lines), *(["Not comparable with these rows:", "\n".join(apart)] if apart else [])]
    return [*([_origin(ranked)] if ranked else []), *shown]


def _origin(rows: Sequence[Row]) -> str:
    first = rows[0].texts
    seeds = " and ".join(dict.fromkeys(row.texts["seeds"] for row in rows))
    line = (
        f"Digest `{first['digest']}`: {first['data']}; labels of {first['labels']} pixels; {first['tokens']} tokens; "
        f"{int(first['images']):,} images seen; seed {seeds}; {first['machine']}; {first['date']}."
    )
    return _wrapped(line)


def _wrapped(text: str, indent: str = "") -> str:
    """The text in lines of at most 120 characters, those after the first with an indent."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False)


def _line(row: Row, cells: Sequence[str], note: str = "") -> list[str]:
    texts = row.texts
    size = f"{texts['tokens']} of {texts['input']}" if texts["tokens"] else ""
    return [f"{texts['backbone']}{note}", *cells, size, _millions(texts["parameters"])]


def _score(row: Row, metric: str) -> str:
    value, low, high = row.scores[metric]
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low == low else "")


def _scores(row: Row) -> str:
    return ", ".join(f"{metric} {row.scores[metric][0]:.3f}" for metric in row.main)


def _millions(parameters: str) -> str:
    return f"{int(parameters) / 1e6:.2f}" if parameters else ""


def _orders(boards: Mapping[str, Sequence[Row]]) -> Table | None:
    """Kendall's tau between the orders of backbones by each frozen and each trained main metric; None without both."""
    rows = {name: {row.texts["backbone"]: row for row in comparable(board)} for name, board in boards.items()}
    columns = [(name, metric, _kind(board)) for name, board in rows.items() for metric in _mains(board)]
    lines = []
    for name, metric, kind in columns:
        for other, head, other_kind in columns if kind == "frozen" else ():
            shared = [backbone for backbone in rows[name] if backbone in rows[other]]
            if other_kind == "trained" and len(shared) >= _FEWEST:
                orders = [
                    [_goodness(rows[board][backbone], m) for backbone in shared]
                    for board, m in ((name, metric), (other, head))
                ]
                tau = kendalltau(*orders).statistic
                lines.append([f"{name} {metric}", head, str(len(shared)), f"{tau:.2f}"])
    return _cells([["frozen", "trained", "backbones", "Kendall's tau"], *lines]) if lines else None


def _kind(board: Mapping[str, Row]) -> str:
    return next((row.texts["training"] for row in board.values()), "")


def _mains(board: Mapping[str, Row]) -> list[str]:
    return next((row.main for row in board.values()), [])


def _goodness(row: Row, metric: str) -> float:
    return row.sign(metric) * row_value(row, metric)


def _table(lines: Sequence[Sequence[str]]) -> str:
    return text_tables.markdown(_cells(lines))


def _cells(lines: Sequence[Sequence[str]]) -> Table:
    first, *rows = [[Cell(text, left=n == 0) for n, text in enumerate(line)] for line in lines]
    return Table(first, rows)
