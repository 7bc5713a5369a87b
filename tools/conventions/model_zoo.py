"""The tables of docs/model-zoo.md, of models and of licences, are the layouts'; tools/check --write fills them in."""

import re
from collections.abc import Iterator
from itertools import groupby

from tools.conventions.tree import Problem, Tree

PAGE = "docs/model-zoo.md"
TABLE = re.compile(r"^(<!-- (models|licences) -->\n).*?^(<!-- end of \2 -->)$", re.MULTILINE | re.DOTALL)
CLEAN = {True: "yes", False: "no", None: "unknown"}
HEADS = ("files", "code", "weights", "data", "teacher", "clean", "data's terms")
# Of images and of annotations, read on 2026-11-29.
TERMS = {
    "ImageNet": "research/research",  # image-net.org's terms, quoted in huggingface.co/datasets/timm/imagenet-1k-wds
    "COCO": "Flickr's/CC-BY-4.0",  # github.com/cocodataset/cocodataset.github.io/blob/master/dataset/termsofuse.htm
    "Objects365": "unknown/academic",  # quoted in github.com/Peterande/D-FINE/issues/162
    "ADE20K": "research/unknown",  # huggingface.co/datasets/Benyooz/ADE20K
    "Cityscapes": "non-commercial/non-commercial",  # github.com/Sshanu/AdaptSegNet/blob/master/license.txt
    "LVD": "unpublished/none",
}


def licences() -> str:
    """A row for each record: its files by pattern, or the layouts whose files have no pattern."""
    from densevit.interfaces import Licences  # late: they import torch
    from densevit.layouts import every

    files: dict[Licences, dict[str, None]] = {}
    for layout in every():
        usual = layout.publishing.licences
        if isinstance(usual, Licences) and not layout.publishing.files:
            files.setdefault(usual, {})[layout.name] = None
        for pattern, licences in layout.publishing.files.items():
            files.setdefault(licences, {})[pattern] = None
    rows = []
    for record, patterns in files.items():
        terms = [TERMS[name] for name in re.findall("|".join(TERMS), record.data)]
        clean = f"[{CLEAN[record.clean]}]({record.source})"
        cells = [record.code, record.weights, record.data, record.teacher, clean, "<br>".join(terms) or "unknown"]
        rows.append(("<br>".join(f"`{pattern}`" for pattern in patterns), *cells))
    rows.sort(key=lambda row: (row[5].partition("]")[0] != "[yes", row[0].lower()))
    lines = [f"|{'|'.join(cells)}|" for cells in (HEADS, ["---"] * len(HEADS), *rows)]
    return "\n".join([f"As read on {', '.join(sorted({record.date for record in files}))}:", "", *lines])


def models() -> str:
    """A table for each task, without backbones."""
    from densevit_checkpoints.model_list import BACKBONE, list_models  # late: it imports torch

    parts = []
    for task, group in groupby((row for row in list_models() if row.task != BACKBONE), key=lambda row: row.task):
        rows = [*group]
        benchmarks = [*dict.fromkeys(benchmark for row in rows for benchmark in row.scores)]
        heads = ["model", "M parameters", *benchmarks, "recipe"]
        parts.append(f"### {task.capitalize()}\n\n|{'|'.join(heads)}|\n|{'|'.join(['---'] * len(heads))}|")
        for row in rows:
            scores = [f"{row.scores[benchmark]:.3f}" if benchmark in row.scores else "" for benchmark in benchmarks]
            cells = [
                f"`{row.name}`",
                f"{(row.parameters or 0) / 1e6:.1f}",
                *scores,
                f"`{row.recipe}`" if row.recipe else "",
            ]
            parts.append(f"|{'|'.join(cells)}|")
    return "\n".join(parts).replace("\n###", "\n\n###")


def written(tree: Tree) -> str:
    tables = {"models": models, "licences": licences}
    return TABLE.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}", tree.text(PAGE))


def tables_are_those_of_the_layouts(tree: Tree) -> Iterator[Problem]:
    if len(TABLE.findall(tree.text(PAGE))) != 2 or written(tree) != tree.text(PAGE):
        yield Problem(PAGE, 1, "the tables are not those of the layouts", "run tools/check --write")


def write(tree: Tree) -> list[str]:
    """Writes the tables; returns the page if it has changed."""
    text = written(tree)
    if text == tree.text(PAGE):
        return []
    (tree.root / PAGE).write_text(text, encoding="utf-8")
    return [PAGE]
