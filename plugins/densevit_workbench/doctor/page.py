"""The page of a diagnosis: findings, splits, classes, distributions, augmented samples and cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from densevit.reporting import html_page
from densevit.reporting.html_page import (
    Cell,
    Grid,
    PageElement,
    PageSection,
    SvgPlot,
    Table,
    Text,
    missing,
    text_table,
)
from densevit_workbench.doctor import rows
from densevit_workbench.doctor.findings import Finding
from densevit_workbench.doctor.training_cost import TrainingCost
from densevit_workbench.reports.distribution_plots import histogram

MAX_SAMPLE_SIDE = 700  # in pixels

Samples = Sequence[tuple[str, Image.Image]]
"""Images with captions."""


@dataclass
class FindingPart(PageElement):
    """A finding of a diagnosis. severity: error, warning or note."""

    severity: str
    heading: str
    entries: Sequence[str]
    fix: str


def sections(
    findings: Sequence[Finding],
    splits: rows.Splits,
    inventories: rows.Inventories,
    readings: Samples,
    samples: Samples,
    cost: TrainingCost | None,
) -> list[PageSection]:
    """All sections of a page, findings first."""
    contents = [
        PageSection("Findings", [_finding(finding) for finding in findings] or [missing("Nothing to report.")]),
        PageSection("Splits", [text_table([rows.SPLIT_COLUMNS, *rows.split_rows(splits)])]),
        *(
            PageSection(f"Classes: {key}", [_class_table(names, lines)])
            for key, names, lines in rows.class_rows(splits)
        ),
    ]
    channels = rows.channel_rows(splits)
    if channels:
        contents.insert(2, PageSection("Channels", [text_table([rows.CHANNEL_COLUMNS, *channels])]))
    if inventories:
        counts = [rows.INVENTORY_COLUMNS, *rows.inventory_rows(inventories)]
        contents.insert(2, PageSection("Found, used and left out", [text_table(counts)]))
    if readings:
        note = Text(
            "Photos that EXIF rotates, with the boxes of the json: left with data.boxes=upright, right with "
            "data.boxes=stored. Choose the reading with the boxes on their objects."
        )
        contents.insert(1, PageSection("Upright or stored boxes", [note, _images(readings)]))
    if samples:
        note = Text("Training images as the model gets them. Maps called prediction are the targets.")
        contents.append(PageSection("Augmented samples", [note, _images(samples)]))
    charts = _charts(splits)
    if charts:
        measures = [rows.MEASURE_COLUMNS, *rows.measure_rows(splits)]
        contents.append(PageSection("Targets", [Grid("plots", charts), text_table(measures)]))
    if cost is not None:
        contents.append(PageSection("Cost", [text_table([("", ""), *rows.cost_rows(cost, splits)])]))
    return contents


def _finding(finding: Finding) -> PageElement:
    entries = [*finding.examples, *filter(None, [finding.truncation_note])]
    return FindingPart(finding.severity, finding.heading, entries, finding.fix)


def _class_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Counts of classes, with bars for the shares. names: the columns. lines: a class and texts such as "12 (3.5%)"."""
    cells = [[Cell(name, left=True), *(Cell(text, _share(text)) for text in texts)] for name, *texts in lines]
    return Table([Cell("class", left=True), *map(Cell, names)], cells)


def _share(text: str) -> float:
    """The share in a text such as "12 (3.5%)"."""
    return float(text.partition("(")[2].rstrip("%)") or 0) / 100


def _charts(splits: rows.Splits) -> list[SvgPlot]:
    """A histogram of each measure of the targets, and of image sizes."""
    drawn = []
    for split, statistics in splits.items():
        numbers: dict[str, np.ndarray] = {}
        if len(statistics.sizes):
            numbers |= {"images: width (px)": statistics.sizes[:, 1], "images: height (px)": statistics.sizes[:, 0]}
            numbers["images: width / height"] = statistics.sizes[:, 1] / np.maximum(statistics.sizes[:, 0], 1)
        if statistics.objects is not None and len(statistics.objects):
            numbers["objects per image"] = statistics.objects
        numbers |= {f"{key}: {name}": ns for key, named in statistics.measures.items() for name, ns in named.items()}
        numbers |= {
            f"augmented {key}: {name}": ns for key, named in statistics.inputs.items() for name, ns in named.items()
        }
        for title, values in numbers.items():
            if np.isfinite(values).any():
                median = f"median {np.median(values[np.isfinite(values)]):.4g}"
                drawn.append(SvgPlot(f"{split}, {title}", histogram(values), median))
    return drawn


def _images(samples: Samples) -> Grid:
    images = []
    for caption, image in samples:
        small = image.copy()
        small.thumbnail((MAX_SAMPLE_SIDE, MAX_SAMPLE_SIDE))
        images.append(html_page.Image(small, caption))
    return Grid("images", images)
