"""The page of a diagnosis: findings, splits, classes, distributions, augmented samples and cost."""

import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from densevit.data.datasets.examination import Finding
from densevit.visualization.curves import histogram_svg
from densevit.visualization.html_page import image_figure, missing, write_page
from densevit_workbench.doctor import tables
from densevit_workbench.doctor.diagnosis import Diagnosis

STYLE = """
.finding { margin: .6rem 0; padding: .2rem 0 .2rem .9rem; border-left: .3rem solid var(--line); }
.finding ul { margin: .2rem 0; padding-left: 1.2rem; font-size: 13px; overflow-wrap: anywhere; }
.finding p { margin: .2rem 0; color: var(--soft); }
.error { border-color: #c62828; } .warning { border-color: #c98a00; } .note { border-color: var(--blue); }
.severity { font-weight: 600; }
svg .fill { fill: var(--blue); }
td.text, th.text { text-align: left; }
"""


def write_doctor_page(path: Path, diagnosis: Diagnosis) -> None:
    """Writes a self-contained page."""
    sections = [
        ("Findings", "".join(map(_finding, diagnosis.findings)) or missing("Nothing to report.")),
        ("Splits", _table(("split", "images", "opened", "labelled with", "size", "objects"), tables.splits(diagnosis))),
    ]
    for key, names, rows in tables.class_rows(diagnosis):
        sections.append((f"Classes: {key}", _class_table(names, rows)))
    charts = _charts(diagnosis)
    if charts:
        rows = tables.measure_rows(diagnosis)
        table = _table(("split", "target", "number", *tables.QUANTILES), rows)
        sections.append(("Targets", f'<div class="curves">{charts}</div>{table}'))
    if diagnosis.samples:
        sections.append(("Augmented samples", _samples(diagnosis.samples)))
    if diagnosis.cost is not None:
        sections.append(("Cost", _table((), tables.cost_rows(diagnosis))))
    write_page(path, f"Doctor: {diagnosis.name}", diagnosis.summary, sections, STYLE)


def _finding(one: Finding) -> str:
    examples = "".join(f"<li>{escape(example)}</li>" for example in one.examples)
    more = f"<li>{one.left_out}</li>" if one.left_out else ""
    return (
        f'<div class="finding {one.severity}"><span class="severity">{one.severity}</span>: '
        f"{escape(one.heading)}<ul>{examples}{more}</ul><p>{escape(one.fix)}</p></div>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th class="text">{escape(name)}</th>' for name in columns)
    lines = "".join("<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def _class_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Counts with bars by their share."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(map(_bar, cells))}</tr>"
        for name, *cells in (map(str, row) for row in rows)
    )
    return f'<div class="wide"><table class="classes"><tr><th>class</th>{head}</tr>{lines}</table></div>'


def _bar(cell: str) -> str:
    share = cell.partition("(")[2].rstrip("%)") or "0"
    return f'<td class="bar" style="--share: {escape(share)}%">{escape(cell)}</td>'


def _charts(diagnosis: Diagnosis) -> str:
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
                drawn.append(f"<figure>{histogram_svg(f'{split}, {title}', values)}</figure>")
    return "".join(drawn)


def _samples(samples: Sequence[tuple[str, Image.Image]]) -> str:
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (caption, image) in enumerate(samples):
            path = Path(folder) / f"{number}.jpg"
            image.thumbnail((700, 700))
            image.save(path, quality=85)
            figures.append(image_figure(path, caption))
    about = "<p>Training images as the model gets them. Maps called prediction are the targets.</p>"
    return f'{about}<div class="images">{"".join(figures)}</div>'
