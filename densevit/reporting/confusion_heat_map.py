"""A confusion matrix as a heat map, and the most frequent confusions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densevit.errors import DataError
from densevit.evaluation import tables_file
from densevit.reporting import plots
from densevit.reporting.html_page import Matrix, Numbered, PageElement, Text

MAX_CLASSES = 1000  # with more classes, cells are smaller than a pixel: only the list is shown
MAX_LISTED = 12


def read_confusion(path: Path) -> tuple[list[str], np.ndarray, str]:
    """The class names, the (K, K) int64 counts, ground truth by prediction (see `Evaluator.tables`), and the counted
    predictions as text, such as "scores from 0.45"; "" for all."""
    rows = tables_file.read(path)
    try:
        names, counted = rows[0][1:], rows[0][0].partition(", ")[2]
        counts = np.array([[int(count) for count in row[1:]] for row in rows[1:]], np.int64)
    except (IndexError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: expected a row of class names and a row of counts per class; found: {error}"
        ) from error
    if not names or counts.shape != (len(names), len(names)) or (counts < 0).any():
        raise DataError(
            f"{path}: expected {len(names)} rows and columns of counts of at least 0, one per class; found "
            f"{' x '.join(map(str, counts.shape))} counts."
        )
    return names, counts, counted


def confusion(names: Sequence[str], counts: np.ndarray, counted: str = "") -> list[PageElement]:
    """The heat map and the list. counts: (K, K), ground truth by prediction. counted: the result of
    `read_confusion`."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(names) > MAX_CLASSES:
        about = f"{len(names)} classes are too many for a matrix.{f' Objects: {counted}.' if counted else ''}"
        return [Text(about), *_most_frequent(names, counts, shares)]
    numbers = "Numbers are per cent of the row. " if len(names) <= plots.MAX_NUMBERED else ""
    about = (
        f"Rows are the ground truth, columns the prediction{f' ({counted})' if counted else ''}. {numbers}"
        "Blue cells are correct, red cells are wrong. The opacity is the fraction of the row; for red its square root, "
        "so that a few per cent are visible."
    )
    return [Text(about), Matrix(plots.heat_map(names, shares)), *_most_frequent(names, counts, shares)]


def _most_frequent(names: Sequence[str], counts: np.ndarray, shares: np.ndarray) -> list[PageElement]:
    """The most frequent confusions by count."""
    wrong = counts * ~np.eye(len(names), dtype=bool)
    pairs = [divmod(int(n), len(names)) for n in np.argsort(-wrong, axis=None, kind="stable")[:MAX_LISTED]]
    entries = [
        (f"{names[i]} predicted as {names[j]}: {_per_cent(shares[i, j])} of {names[i]}", f"({counts[i, j]:,})")
        for i, j in pairs
        if wrong[i, j]
    ]
    if not entries:
        return [Text("There are no confusions." if counts.any() else "The matrix is empty.")]
    return [Text("Most frequent:"), Numbered(entries)]


def _per_cent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "less than 0.1 %"
