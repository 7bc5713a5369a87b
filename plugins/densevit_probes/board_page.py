"""The page of a board: ranks rows that are comparable, and names what differs in the others."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scipy.stats import kendalltau

from densevit.atomic_io import replaced_file
from densevit.data.io.text_files import read_text
from densevit.errors import DataError
from densevit.reporting.html_page import Table
from densevit_probes.board_rows import Row, read_rows
from densevit_workbench.benchmarking.digest import comparable, differing
from densevit_workbench.reports import text_tables

BEGIN, END = "<!-- board -->", "<!-- end of board -->"
_FEWEST = 3  # backbones for an order to be compared


def write_page(folder: Path) -> Path:
    """Writes the tables of a board into FOLDER.md, between `BEGIN` and `END`; a new page has them alone."""
    path = folder.with_suffix(".md")
    text = read_text(path) if path.is_file() else f"# Board\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{path}: expected the lines {BEGIN} and {END}, between which tables are written.")
    with replaced_file(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{tables(folder)}\n\n{END}{after}", encoding="utf-8")
    return path


def protocols(folder: Path) -> Iterator[tuple[str, dict[Path, Row]]]:
    """The rows of each protocol of a board, or of the one whose folder this is."""
    for path in sorted([folder, *folder.glob("*/")]):
        if rows := read_rows(path):
            yield path.name, rows


def tables(folder: Path) -> str:
    """The tables of all protocols as Markdown: a heading each, and the orders of frozen and trained backbones."""
    boards = {name: [*rows.values()] for name, rows in protocols(folder)}
    if not boards:
        raise DataError(f"{folder}: expected folders with rows of a board; there are none.")
    parts = [part for name, rows in boards.items() for part in (f"## {name}", *_board(rows))]
    orders = _orders(boards)
    return "\n\n".join([*parts, "## Frozen against trained", text_tables.markdown(orders)] if orders else parts)


def ranked_rows(rows: Sequence[Row]) -> list[Row]:
    """The measured rows of the largest group that may be ranked."""
    groups = comparable({str(i): row.parts for i, row in enumerate(rows) if row.is_measured})
    return [rows[int(i)] for i in groups[0]] if groups else []


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
    return min(row.scores[metric]), max(row.scores[metric])


def _board(rows: Sequence[Row]) -> list[str]:
    ranked, published = ranked_rows(rows), [row for row in rows if not row.is_measured]
    metrics = [name for name in (ranked or published)[0].main if all(name in row.scores for row in ranked)]
    by_metric = {metric: ranks(ranked, metric) for metric in metrics if ranked}
    arrows = [f"{metric} {'↓' if (ranked or published)[0].sign(metric) < 0 else '↑'}" for metric in metrics]
    lines = [["backbone", *arrows, "tokens", "parameters, M"]]
    order = range(len(ranked))
    for i in sorted(order, key=lambda i: _goodness(ranked[i], metrics[0]), reverse=True) if metrics else order:
        lines.append(_line(ranked[i], [f"{by_metric[x][i]}. {_score(ranked[i], x)}" for x in metrics]))
    for row in published:
        cells = [_score(row, metric) if metric in row.scores else "" for metric in metrics]
        lines.append(_line(row, cells, f" (published: {row.source})"))
    apart = [
        _wrapped(f"- {row.backbone}: {_scores(row)}; {differing(row.parts, ranked[0].parts)}", "  ")
        for row in rows
        if row not in [*ranked, *published]
    ]
    note = ["Not comparable with these rows:", "\n".join(apart)] if apart else []
    return [*([_origin(ranked)] if ranked else []), text_tables.markdown(text_tables.number_table(lines)), *note]


def _origin(rows: Sequence[Row]) -> str:
    parts = rows[0].parts
    shared = [dict.fromkeys(f"seed {row.config['seed']}" for row in rows), dict.fromkeys(row.machine for row in rows)]
    root = rows[0].config.get("data", {}).get("root")
    line = (
        f"Digest `{rows[0].digest}`: {f'{root}, ' if root else ''}{parts['data']}; trained or fitted on "
        f"{parts['train']}; labels of {parts['labels']} pixels; {parts['tokens']} tokens; "
        f"{'; '.join(map(' and '.join, shared))}; {rows[0].date}."
    )
    return _wrapped(line)


def _wrapped(text: str, indent: str = "") -> str:
    """The text in lines of at most 120 characters, those after the first with an indent."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False)


def _line(row: Row, cells: Sequence[str], note: str = "") -> list[str]:
    millions = "" if row.parameters is None else f"{row.parameters / 1e6:.2f}"
    return [f"{row.backbone}{note}", *cells, row.parts.get("tokens", ""), millions]


def _score(row: Row, metric: str) -> str:
    value, *bounds = [f"{x:.3f}" for x in row.scores[metric]]
    return value + (f" ({' to '.join(bounds)})" if bounds else "")


def _scores(row: Row) -> str:
    return ", ".join(f"{metric} {row.scores[metric][0]:.3f}" for metric in row.main)


def _orders(boards: Mapping[str, Sequence[Row]]) -> Table | None:
    """Kendall's tau between the orders of backbones by each frozen and each trained main metric; None without both."""
    rows = {name: {row.backbone: row for row in ranked_rows(board)} for name, board in boards.items()}
    first = {name: row for name, board in rows.items() for row in [*board.values()][:1]}
    columns = [(name, metric, row.training) for name, row in first.items() for metric in row.main]
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
    return text_tables.number_table([["frozen", "trained", "backbones", "Kendall's tau"], *lines]) if lines else None


def _goodness(row: Row, metric: str) -> float:
    return row.sign(metric) * row_value(row, metric)
