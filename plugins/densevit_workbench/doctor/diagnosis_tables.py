"""A diagnosis as tables for the terminal and as JSON values."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.text import Text

from densevit.terminal import table
from densevit_workbench.doctor import rows
from densevit_workbench.doctor.diagnosis import Diagnosis
from densevit_workbench.doctor.findings import Finding
from densevit_workbench.doctor.split_statistics import SplitStatistics

SHOWN_CLASSES = 20

_COLORS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def tables(diagnosis: Diagnosis) -> Iterator[Any]:
    """The splits, classes, measures and findings, as rich's renderables and texts."""
    if diagnosis.splits:
        yield table(rows.split_rows(diagnosis.splits), rows.SPLIT_COLUMNS, "\nsplits")
    channels = rows.channel_rows(diagnosis.splits)
    if channels:
        yield table(channels, rows.CHANNEL_COLUMNS, "\nchannels")
    if diagnosis.inventories:
        yield table(rows.inventory_rows(diagnosis.inventories), rows.INVENTORY_COLUMNS, "\nfound, used and left out")
    for key, names, counts in rows.class_rows(diagnosis.splits):
        more = f" (the {SHOWN_CLASSES} most frequent of {len(counts)})" if len(counts) > SHOWN_CLASSES else ""
        yield table(counts[:SHOWN_CLASSES], ("class", *names), f"\nclasses: {key}{more}")
    measures = rows.measure_rows(diagnosis.splits)
    if measures:
        yield table(measures, rows.MEASURE_COLUMNS, "\ntargets")
    if diagnosis.cost is not None:
        yield table(rows.cost_rows(diagnosis.cost, diagnosis.splits), title="\ncost")
    for finding in diagnosis.findings:
        yield finding_text(finding)


def finding_text(finding: Finding) -> Text:
    """The text of a finding for the terminal: its severity in colour, the fix dimmed."""
    text = Text(str(finding))
    text.stylize(_COLORS[finding.severity], 0, len(finding.severity))
    if finding.fix:
        text.stylize("dim", len(text) - len(finding.fix))
    return text


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
                **{
                    "severity": finding.severity,
                    "split": finding.split,
                    "title": finding.title,
                    "count": finding.count,
                    "of": finding.of,
                },
                **{"examples": list(finding.examples), "fix": finding.fix},
            }
            for finding in diagnosis.findings
        ],
        "splits": {split: _split_json(statistics) for split, statistics in diagnosis.splits.items()},
        "inventories": {
            split: [
                {"kind": inventory.noun, "found": inventory.total, "used": inventory.used}
                | {"skipped": {reason: len(names) for reason, names in inventory.skipped.items()}}
                for inventory in split_inventories
            ]
            for split, split_inventories in diagnosis.inventories.items()
        },
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


def _split_json(statistics: SplitStatistics) -> dict[str, Any]:
    classes = {
        key: {"unit": c.unit, "complete": c.complete, "counts": dict(zip(c.names, c.counts.tolist(), strict=True))}
        for key, c in statistics.classes.items()
    }
    measures = {
        key: {name: np.quantile(ns, list(rows.QUANTILES.values())).tolist() for name, ns in named.items() if len(ns)}
        for key, named in statistics.measures.items()
    }
    return {
        **{
            "images": statistics.images,
            "opened": statistics.opened,
            "provides": list(statistics.provides),
            "classes": classes,
        },
        **{"quantiles": list(rows.QUANTILES.values()), "measures": measures},
    }
