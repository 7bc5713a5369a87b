"""A confusion matrix as an HTML heat map, with a list of the most frequent confusions."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from densevit.errors import DataError
from densevit.evaluation import tables_file

MAX_CLASSES_WITH_NUMBERS = 24  # with more classes, cells are too small for numbers
MAX_CLASSES_WITH_NAMES = 80  # with more classes, rows are too small for names
MAX_CLASSES = 260  # with more classes, there is only the list
SMALLEST = 0.002  # fraction of a row, below which cells of very large pages are left out
WIDTH = 1000  # of a matrix without numbers, in pixels
MAX_LISTED = 12
LIGHT_TEXT_FROM = 0.8  # opacity of the colour from which the text is light


def read_confusion(path: Path) -> tuple[list[str], np.ndarray]:
    """Reads the class names and the (K, K) int64 counts, ground truth by prediction (see `Evaluator.tables`)."""
    rows = tables_file.read(path)
    try:
        names = rows[0][1:]
        counts = np.array([[int(count) for count in row[1:]] for row in rows[1:]], np.int64)
    except (IndexError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: expected a row of class names and a row of counts per class; found: {error}"
        ) from error
    if not names or counts.shape != (len(names), len(names)) or (counts < 0).any():
        raise DataError(f"{path}: expected {len(names)} rows of {len(names)} counts, one per class.")
    return names, counts


def confusion_html(names: Sequence[str], counts: np.ndarray, most: int | None = None) -> str:
    """The heat map, with rows divided by their sums, and the list. counts: (K, K), ground truth by prediction.

    most: the largest size in bytes; a longer result is shortened: without counts of single cells, or only the list.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(names) <= MAX_CLASSES:
        for smallest in (0.0, SMALLEST) if most is not None else (0.0,):
            html = _heat_map(names, counts, shares, smallest)
            if most is None or len(html.encode()) <= most:
                return html
    return f"<p>{len(names)} classes are too many for a matrix.</p>{_list(names, counts, shares)}"


def _heat_map(names: Sequence[str], counts: np.ndarray, shares: np.ndarray, smallest: float) -> str:
    """The heat map and the list. smallest: the fraction of a row from which a cell is shown; above 0, cells have no
    counts."""
    hover = "" if smallest else " Hover over a cell to see its count."
    numbers = "Numbers are per cent of the row. " if len(names) <= MAX_CLASSES_WITH_NUMBERS else ""
    return (
        f"<p>Rows are the ground truth, columns the prediction. {numbers}Blue cells are correct, red cells are wrong. "
        "The opacity is the fraction of the row; for red its square root, so that a few per cent are visible."
        f"{hover}</p>{_matrix(names, counts, shares, smallest)}{_list(names, counts, shares)}"
    )


def _matrix(names: Sequence[str], counts: np.ndarray, shares: np.ndarray, smallest: float) -> str:
    kind = "numbered" if len(names) <= MAX_CLASSES_WITH_NUMBERS else "plain"
    side = "" if kind == "numbered" else f' style="--side: {min(24, WIDTH // len(names))}px"'
    named = len(names) <= MAX_CLASSES_WITH_NAMES
    across = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = [f'<tr><td class="corner">truth \\ prediction</td>{across}</tr>' if named else ""]
    for i, name in enumerate(names):
        title = f'<th scope="row">{escape(name)}</th>' if named else ""
        cells = [_cell(names, counts, shares, i, j, kind == "numbered", smallest) for j in range(len(names))]
        rows.append(f"<tr>{title}{''.join(cells)}</tr>")
    return f'<div class="wide"><table class="matrix {kind}"{side}>{"".join(rows)}</table></div>'


def _cell(
    names: Sequence[str],
    counts: np.ndarray,
    shares: np.ndarray,
    i: int,
    j: int,
    numbered: bool,
    smallest: float,
) -> str:
    if not counts[i, j] or shares[i, j] < smallest:
        return "<td></td>"
    share = float(shares[i, j])
    opacity = share if i == j else share**0.5
    light = " light" if opacity >= LIGHT_TEXT_FROM else ""
    what = f"{names[i]} correct" if i == j else f"{names[i]} predicted as {names[j]}"
    text = escape(f"{what}: {counts[i, j]:,}, {_per_cent(share)} of {names[i]}")
    title = "" if smallest else f' title="{text}"'
    text = _whole_per_cent(share) if numbered else ""
    kind = "right" if i == j else "wrong"
    return f'<td class="{kind}{light}" style="--opacity: {opacity:.3f}"{title}>{text}</td>'


def _list(names: Sequence[str], counts: np.ndarray, shares: np.ndarray) -> str:
    """The most frequent confusions by count."""
    wrong = counts * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_LISTED]
    pairs = [divmod(int(n), len(names)) for n in order]
    items = [
        f"<li>{escape(f'{names[i]} predicted as {names[j]}: {_per_cent(shares[i, j])} of {names[i]}')}"
        f' <span class="missing">({counts[i, j]:,})</span></li>'
        for i, j in pairs
        if wrong[i, j]
    ]
    if not items:
        return f"<p>{'There are no confusions.' if counts.any() else 'The matrix is empty.'}</p>"
    return f"<p>Most frequent:</p><ol>{''.join(items)}</ol>"


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "less than 0.1 %"


def _whole_per_cent(share: float) -> str:
    """A share in per cent, rounded; 0 and 100 only for exactly these values."""
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
.matrix .right { background: rgb(36 99 201 / var(--opacity)); }
.matrix .wrong { background: rgb(196 48 40 / var(--opacity)); }
.matrix .light { color: #fff; }
.numbered td:not(.corner) { box-shadow: inset 0 0 0 .5px var(--line); min-width: 2.2rem; height: 2.2rem; }
.plain { border: 1px solid var(--line); border-spacing: 0; }
.plain { font-size: min(12px, calc(.8 * var(--side))); line-height: 1; }
.plain td:not(.corner) { min-width: var(--side); height: var(--side); }
"""
