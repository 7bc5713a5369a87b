"""The page of a diagnosis: findings, splits, classes, distributions, augmented samples and cost."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.datasets.examination import Finding
from densevit.visualization import html_page, plots
from densevit.visualization.html_page import (
    Cell,
    FindingPart,
    Grid,
    Part,
    Plot,
    Section,
    Table,
    Text,
    missing,
    text_table,
)
from densevit_workbench.doctor import tables
from densevit_workbench.doctor.diagnosis import Diagnosis


def write_doctor_page(path: Path, diagnosis: Diagnosis) -> None:
    """Writes a self-contained page."""
    splits = [("split", "images", "opened", "labelled with", "size", "objects"), *tables.splits(diagnosis)]
    sections = [
        Section("Findings", [_finding(one) for one in diagnosis.findings] or [missing("Nothing to report.")]),
        Section("Splits", [text_table(splits)]),
        *(Section(f"Classes: {key}", [_class_table(names, rows)]) for key, names, rows in tables.class_rows(diagnosis)),
    ]
    charts = _charts(diagnosis)
    if charts:
        measures = [("split", "target", "number", *tables.QUANTILES), *tables.measure_rows(diagnosis)]
        sections.append(Section("Targets", [Grid("plots", charts), text_table(measures)]))
    with tempfile.TemporaryDirectory() as folder:
        if diagnosis.samples:
            sections.append(Section("Augmented samples", _samples(diagnosis.samples, Path(folder))))
        if diagnosis.cost is not None:
            sections.append(Section("Cost", [text_table([("", ""), *tables.cost_rows(diagnosis)])]))
        html_page.write_page(path, f"Doctor: {diagnosis.name}", diagnosis.summary, sections)


def _finding(one: Finding) -> Part:
    more = [one.left_out] if one.left_out else []
    return FindingPart(one.severity, one.heading, [*one.examples, *more], one.fix)


def _class_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Counts with bars by their share."""
    lines = [[Cell(name, left=True), *(Cell(text, _share(text)) for text in cells)] for name, *cells in rows]
    return Table([Cell("class", left=True), *map(Cell, names)], lines)


def _share(text: str) -> float:
    """The share in a text such as "12 (3.5%)"."""
    return float(text.partition("(")[2].rstrip("%)") or 0) / 100


def _charts(diagnosis: Diagnosis) -> list[Plot]:
    """A histogram of each number of the targets, and of the sizes of images."""
    drawn = []
    for split, one in diagnosis.splits.items():
        numbers: dict[str, np.ndarray] = {}
        if len(one.sizes):
            numbers |= {"images: width (px)": one.sizes[:, 1], "images: height (px)": one.sizes[:, 0]}
            numbers["images: width / height"] = one.sizes[:, 1] / np.maximum(one.sizes[:, 0], 1)
        if one.objects is not None and len(one.objects):
            numbers["objects per image"] = one.objects
        numbers |= {f"{key}: {name}": ns for key, named in one.measures.items() for name, ns in named.items()}
        numbers |= {f"augmented {key}: {name}": ns for key, named in one.inputs.items() for name, ns in named.items()}
        for title, values in numbers.items():
            values = values[np.isfinite(values)]
            if len(values):
                median = f"median {np.median(values):.4g}"
                drawn.append(Plot(f"{split}, {title}", plots.histogram(values), median))
    return drawn


def _samples(samples: Sequence[tuple[str, Image.Image]], folder: Path) -> list[Part]:
    images = []
    for number, (caption, image) in enumerate(samples):
        path = folder / f"{number}.jpg"
        image.thumbnail((700, 700))
        image.save(path, quality=85)
        images.append(html_page.Image(path, caption))
    return [
        Text("Training images as the model gets them. Maps called prediction are the targets."),
        Grid("images", images),
    ]
