"""The figures and the HTML page of an inspection."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from densevit.drawing.fonts import drawable_names
from densevit.reporting.html_page import Grid, Image, PageElement, PageSection, SvgPlot, Text, missing, write_page
from densevit_workbench.inspection import figures
from densevit_workbench.inspection.attention_measures import query_maps
from densevit_workbench.inspection.inspection_results import InspectionFields
from densevit_workbench.reports.distribution_plots import point_columns

MOST_SIMILARITIES = 8  # rows and columns of tiles in the figure of positions
SIDE = 220  # of a tile, in pixels


def write(findings: InspectionFields, folder: Path) -> list[Path]:
    """Writes the PNG files and `inspect.html`, and returns them."""
    files: list[Path] = []

    def figure(name: str, tiles: Sequence[figures.Tile], columns: int, side: int, caption: str) -> list[PageElement]:
        files.append(folder / f"{name}.png")
        figures.sheet(tiles, columns, side).save(files[-1])
        return [Grid("natural", [Image(files[-1], caption)])]

    image = [("", figures.with_point(findings.image, findings.point))]
    sections = [PageSection("Image", figure("image", image, 1, 420, IMAGE))]
    if findings.similarity is not None:
        tiles, columns = _similarities(findings.similarity)
        sections.append(PageSection("Position embeddings", figure("positions", tiles, columns, 64, POSITIONS)))
    if not findings.layers:
        sections.append(
            PageSection("Attention", [missing("The backbone shows no attention on the cells of its maps.")])
        )
    else:
        svg = point_columns([heads.tolist() for heads in findings.distances.values()], "layer")
        sections.append(PageSection("Mean attention distance", [SvgPlot("pixels", svg), Text(DISTANCE, soft=True)]))
        means = [query_maps(layer, findings.point).mean(0) for layer in findings.layers]
        tiles = [(layer.name, _over_image(findings, mean)) for layer, mean in zip(findings.layers, means, strict=True)]
        sections.append(PageSection("Attention of the query, by layer", figure("query", tiles, 6, SIDE, QUERY)))
        last = query_maps(findings.layers[-1], findings.point)
        tiles = [(f"head {i}", _over_image(findings, head)) for i, head in enumerate(last, 1)]
        title = "Attention of the query, heads of the last layer"
        sections.append(PageSection(title, figure("heads", tiles, 6, SIDE, HEADS)))
    for head, objects in findings.objects.items():
        names = drawable_names({detected.label: detected.name for detected in objects})
        tiles = [
            (
                f"{names[detected.label]} {detected.score:.2f}",
                figures.with_box(figures.heat(findings.image, detected.map.numpy()), detected.box),
            )
            for detected in objects
        ]
        if tiles:
            sections.append(PageSection(f"Detected objects: {head}", figure(f"objects-{head}", tiles, 4, 300, OBJECTS)))
    for part, part_figures in findings.figures.items():
        for drawn in part_figures:
            shown = figure(f"{drawn.name}-{part}", drawn.tiles, drawn.columns, drawn.side, drawn.caption)
            sections.append(PageSection(f"{drawn.title}: {part}", shown))
    files.append(folder / "inspect.html")
    height, width = findings.size
    about = f"{width} x {height} pixels; {len(findings.layers)} layers of attention"
    write_page(files[-1], "Inspection", about, sections)
    return files


IMAGE = "As the model sees it, resized and padded. The cross is the query of the maps below."
POSITIONS = "Cosine similarity of a cell's embedding with the embeddings of all cells. Some cells, one tile each."
DISTANCE = (
    "Distance between a cell and the others, weighted by attention, mean over all cells (Dosovitskiy et al. 2021, "
    "section 4.5). One point per head, one column per layer."
)
QUERY = "Mean over heads, each map on its own scale."
HEADS = "Each map on its own scale."
OBJECTS = "Cross-attention of the last decoder layer, mean over heads, with the predicted box."


def _similarities(similarity: Tensor) -> tuple[list[figures.Tile], int]:
    """A tile for each of at most MOST_SIMILARITIES rows and columns of cells, evenly spread."""
    height, width = similarity.shape[:2]
    rows, columns = (
        [round(i * (side - 1) / max(1, min(side, MOST_SIMILARITIES) - 1)) for i in range(min(side, MOST_SIMILARITIES))]
        for side in (height, width)
    )
    return [("", figures.colored(similarity[y, x].numpy())) for y in rows for x in columns], len(columns)


def _over_image(findings: InspectionFields, values: Tensor) -> np.ndarray:
    return figures.with_point(figures.heat(findings.image, values.float().numpy()), findings.point)
