"""A confusion matrix as a heat map, and its most frequent confusions in words, in HTML."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from densevit.errors import DataError
from densevit.evaluation import tables_file

WITH_NUMBERS = 24  # classes up to which a cell has room for its number
WITH_NAMES = 80  # and up to which a row has room for its name
WIDTH = 1000  # of a matrix without numbers, in pixels
MOST_LISTED = 12
DEEP = 0.8  # from this share of colour on, letters are light on it


def read_confusion(path: Path) -> tuple[list[str], np.ndarray]:
    """The classes' names and the (K, K) int64 counts, truth by prediction, of a file (see `Evaluator.tables`)."""
    rows = tables_file.read(path)
    try:
        names = rows[0][1:]
        counts = np.array([[int(count) for count in row[1:]] for row in rows[1:]], np.int64)
    except (IndexError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: expected names, and a row of counts for each; found: {error}") from error
    if not names or counts.shape != (len(names), len(names)) or (counts < 0).any():
        raise DataError(f"{path}: expected as many rows of counts as there are names, {len(names)}.")
    return names, counts


def confusion_html(names: Sequence[str], counts: np.ndarray) -> str:
    """The heat map, each row over its sum, and the list. counts: (K, K), truth by prediction."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    numbers = "A number is per cent of its row. " if len(names) <= WITH_NUMBERS else ""
    return (
        f"<p>Rows are the truth, columns the prediction. {numbers}Blue is right, red is wrong, deeper where it is a "
        "larger share of its row; red by the square root, so that a few per cent are seen. A cell that is pointed at "
        f"tells its count.</p>{_matrix(names, counts, shares)}{_list(names, counts, shares)}"
    )


def _matrix(names: Sequence[str], counts: np.ndarray, shares: np.ndarray) -> str:
    kind = "numbered" if len(names) <= WITH_NUMBERS else "plain"
    side = "" if kind == "numbered" else f' style="--side: {min(24, WIDTH // len(names))}px"'
    named = len(names) <= WITH_NAMES
    across = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = [f'<tr><td class="corner">truth \\ prediction</td>{across}</tr>' if named else ""]
    for i, name in enumerate(names):
        title = f'<th scope="row">{escape(name)}</th>' if named else ""
        cells = [_cell(names, counts, shares, i, j, kind == "numbered") for j in range(len(names))]
        rows.append(f"<tr>{title}{''.join(cells)}</tr>")
    return f'<div class="wide"><table class="matrix {kind}"{side}>{"".join(rows)}</table></div>'


def _cell(names: Sequence[str], counts: np.ndarray, shares: np.ndarray, i: int, j: int, numbered: bool) -> str:
    if not counts[i, j]:
        return "<td></td>"
    share = float(shares[i, j])
    depth = share if i == j else share**0.5
    deep = " deep" if depth >= DEEP else ""
    what = f"{names[i]} found" if i == j else f"{names[i]} taken for {names[j]}"
    title = escape(f"{what}: {counts[i, j]:,}, {_per_cent(share)} of {names[i]}")
    text = _whole_per_cent(share) if numbered else ""
    return (
        f'<td class="{"right" if i == j else "wrong"}{deep}" style="--depth: {depth:.3f}" title="{title}">{text}</td>'
    )


def _list(names: Sequence[str], counts: np.ndarray, shares: np.ndarray) -> str:
    """The confusions that happen most often, in pixels or whatever is counted."""
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_LISTED]
    pairs = [divmod(int(n), len(names)) for n in order]
    items = [
        f"<li>{escape(f'{names[i]} taken for {names[j]}: {_per_cent(shares[i, j])} of {names[i]}')}"
        f' <span class="missing">({counts[i, j]:,})</span></li>'
        for i, j in pairs
        if wrong[i, j]
    ]
    if not items:
        return f"<p>{'Nothing is confused.' if counts.any() else 'Nothing was counted.'}</p>"
    return f"<p>Most frequent:</p><ol>{''.join(items)}</ol>"


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "less than 0.1 %"


def _whole_per_cent(share: float) -> str:
    """Never 0 for something, nor 100 for less than all."""
    if share < 0.005:
        return "&lt;1"
    return "&gt;99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


STYLE = """
.matrix { border-collapse: separate; border-spacing: 1px; font-size: 12px; margin: 1rem 0; }
.matrix :is(th, td) { border: 0; padding: 0; font-weight: normal; }
.matrix td { text-align: center; }
.matrix .corner { color: var(--soft); text-align: right; vertical-align: bottom; padding: .2rem .5rem; }
.matrix th[scope=row] { text-align: right; padding-right: .5rem; white-space: nowrap; }
.matrix th[scope=col] { vertical-align: bottom; text-align: center; }
.matrix th[scope=col] span { writing-mode: vertical-rl; rotate: 180deg; white-space: nowrap; padding-top: .4rem; }
.matrix .right { background: rgb(36 99 201 / var(--depth)); }
.matrix .wrong { background: rgb(196 48 40 / var(--depth)); }
.matrix .deep { color: #fff; }
.numbered td:not(.corner) { box-shadow: inset 0 0 0 .5px var(--line); min-width: 2.2rem; height: 2.2rem; }
.plain { border: 1px solid var(--line); border-spacing: 0; }
.plain { font-size: min(12px, calc(.8 * var(--side))); line-height: 1; }
.plain td:not(.corner) { min-width: var(--side); height: var(--side); }
"""
