"""A diagnosis as tables for the terminal and as JSON values."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from densevit.data.datasets.examination import Finding
from densevit.terminal import table
from densevit_workbench.doctor.diagnosis import Diagnosis
from densevit_workbench.doctor.split_statistics import ClassCounts, SplitStatistics

SHOWN_CLASSES = 20
QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}

_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def tables(diagnosis: Diagnosis) -> Iterator[Any]:
    """The splits, classes, measures and findings, as rich's renderables and texts."""
    if diagnosis.splits:
        columns = ("split", "images", "opened", "labelled with", "size (w x h)", "objects")
        yield table(splits(diagnosis), columns, "\nsplits")
    for key, names, rows in class_rows(diagnosis):
        more = f" (the {SHOWN_CLASSES} most frequent of {len(rows)})" if len(rows) > SHOWN_CLASSES else ""
        yield table(rows[:SHOWN_CLASSES], ("class", *names), f"\nclasses: {key}{more}")
    rows = measure_rows(diagnosis)
    if rows:
        yield table(rows, ("split", "target", "number", *QUANTILES), "\ntargets")
    if diagnosis.cost is not None:
        yield table(cost_rows(diagnosis), title="\ncost")
    for one in diagnosis.findings:
        yield finding_text(one)


def finding_text(finding: Finding) -> Text:
    """A finding, with its severity in colour and the fix dimmed."""
    text = Text(str(finding))
    text.stylize(_COLORS[finding.severity], 0, len(finding.severity))
    if finding.fix:
        text.stylize("dim", len(text) - len(finding.fix))
    return text


def splits(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """A row for each split."""
    return [
        (
            split,
            f"{one.images:,}",
            "all" if one.opened == one.images else f"{one.opened:,}",
            ", ".join(one.provides) or "nothing",
            size_text(one.sizes),
            "" if one.objects is None or not len(one.objects) else f"{one.objects.mean():.1f} per image",
        )
        for split, one in diagnosis.splits.items()
    ]


def size_text(sizes: np.ndarray) -> str:
    """The sizes as text, such as "640 x 480" or "480 x 320 to 640 x 640, median 640 x 480"."""
    if not len(sizes):
        return ""
    low, high, median = sizes.min(axis=0), sizes.max(axis=0), np.median(sizes, axis=0)
    if (low == high).all():
        return _wh(low)
    return f"{_wh(low)} to {_wh(high)}, median {_wh(median)}"


def class_rows(diagnosis: Diagnosis) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """For each target key with classes: the key with its unit, the splits, and one row per class.

    Rows are sorted by frequency in the first split.
    """
    found = []
    for key in {key: None for one in diagnosis.splits.values() for key in one.classes}:
        of_splits = {split: one.classes[key] for split, one in diagnosis.splits.items() if key in one.classes}
        first = next(iter(of_splits.values()))
        same = [one for one in of_splits.values() if one.names == first.names]
        order = np.argsort(-first.counts, kind="stable").tolist()
        rows = [(first.names[i], *(_count_text(one, i) for one in same)) for i in order]
        opened = "" if all(one.complete for one in same) else " of the images that were opened"
        found.append((f"{key} ({first.unit}{opened})", tuple(of_splits)[: len(same)], rows))
    return found


def measure_rows(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """Quantiles of each number of the targets of each split, and of the augmented training images."""
    rows = []
    for split, one in diagnosis.splits.items():
        for where, measures in ((split, one.measures), (f"{split}, augm.", one.inputs)):
            for key, named in measures.items():
                for name, numbers in named.items():
                    numbers = numbers[np.isfinite(numbers)]
                    if len(numbers):
                        found = np.quantile(numbers, list(QUANTILES.values()))
                        rows.append((where, key, name, *(f"{value:.4g}" for value in found)))
    return rows


def cost_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """Names and values of the cost."""
    cost = diagnosis.cost
    if cost is None:
        return []
    height, width = cost.size
    return [
        ("parameters", f"{cost.parameters / 1e6:,.2f} M, {cost.trained_parameters / 1e6:,.2f} M trained"),
        ("multiply-adds", f"{cost.multiply_adds / 1e9:,.2f} G for an image of {width} x {height}, without decoding"),
        (
            "training",
            cost.budget.describe(diagnosis.splits["train"].images).removeprefix("budget: ") + ", on one device",
        ),
        ("multiply-adds of the training", f"about {cost.training_multiply_adds / 1e15:,.3g} P, forward and backward"),
    ]


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON values, without images."""
    cost = diagnosis.cost
    return {
        "source": diagnosis.name,
        "errors": diagnosis.count("error"),
        "warnings": diagnosis.count("warning"),
        "notes": diagnosis.count("note"),
        "findings": [
            {
                **{"severity": one.severity, "split": one.split, "title": one.title, "count": one.count, "of": one.of},
                **{"examples": list(one.examples), "fix": one.fix},
            }
            for one in diagnosis.findings
        ],
        "splits": {split: _split_json(one) for split, one in diagnosis.splits.items()},
        "cost": None
        if cost is None
        else {
            "size": list(cost.size),
            "parameters": cost.parameters,
            "trained_parameters": cost.trained_parameters,
            "multiply_adds": cost.multiply_adds,
            "steps": cost.budget.steps,
            "images": cost.budget.images,
        },
    }


def _split_json(one: SplitStatistics) -> dict[str, Any]:
    classes = {
        key: {"unit": c.unit, "complete": c.complete, "counts": dict(zip(c.names, c.counts.tolist(), strict=True))}
        for key, c in one.classes.items()
    }
    measures = {
        key: {name: np.quantile(ns, list(QUANTILES.values())).tolist() for name, ns in named.items() if len(ns)}
        for key, named in one.measures.items()
    }
    return {
        **{"images": one.images, "opened": one.opened, "provides": list(one.provides), "classes": classes},
        **{"quantiles": list(QUANTILES.values()), "measures": measures},
    }


def _count_text(classes: ClassCounts, index: int) -> str:
    count, total = int(classes.counts[index]), int(classes.counts.sum())
    return f"{count:,} ({count / total:.1%})" if total else "0"


def _wh(size: np.ndarray) -> str:
    return f"{size[1]:g} x {size[0]:g}"
