"""Converts a Jupyter notebook with its outputs to Markdown and images. Nothing is run."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

IMAGES = {"image/png": ".png", "image/jpeg": ".jpg", "image/svg+xml": ".svg"}
ANSI = re.compile(r"\x1b\[[0-9;]*m")  # colours of terminals


class Page(NamedTuple):
    """A notebook as a page.

    images: the contents by file name, which the Markdown refers to in the folder of the page.
    """

    markdown: str
    images: dict[str, bytes]


def convert(file: Path) -> Page:
    """Converts the cells of a notebook (nbformat 4) and their outputs, in their order.

    Of code cells with the tag `remove-input`, only the outputs are shown; cells with `remove-cell` are left out.
    """
    notebook = json.loads(file.read_text(encoding="utf-8"))
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for number, cell in enumerate(notebook["cells"], 1):
        tags, source = cell.get("metadata", {}).get("tags", []), joined(cell["source"])
        name = f"{file.stem}-{number}"
        if not source.strip() or "remove-cell" in tags:
            continue
        if cell["cell_type"] == "markdown":
            for title, data in cell.get("attachments", {}).items():
                source = source.replace(f"(attachment:{title})", f"({_image(data, f'{name}-{title}', images)})")
            parts.append(source)
        elif cell["cell_type"] == "code":
            if "remove-input" not in tags:
                parts.append(fenced(source, "python"))
            parts += [_output(output, f"{name}-{i}", images) for i, output in enumerate(cell["outputs"], 1)]
    return Page("\n\n".join(filter(None, parts)) + "\n", images)


def _output(output: Mapping[str, Any], name: str, images: dict[str, bytes]) -> str:
    """The Markdown of one output of a code cell."""
    if output["output_type"] == "stream":
        return fenced(joined(output["text"]), "text")
    if output["output_type"] == "error":
        return fenced("\n".join(output["traceback"]), "text")
    data = output["data"]
    if any(kind in data for kind in IMAGES):
        alternative = re.sub(r"[\[\]]", "", " ".join(joined(data.get("text/plain", "output")).split()))
        return f"![{alternative}]({_image(data, name, images)})"
    if "text/markdown" in data:
        return joined(data["text/markdown"])
    return fenced(joined(data.get("text/plain", "")), "text")


def _image(data: Mapping[str, Any], name: str, images: dict[str, bytes]) -> str:
    """Adds the image of an output or an attachment to `images`, and returns its file name."""
    kind = next(kind for kind in IMAGES if kind in data)
    file = re.sub(r"[^\w.-]", "_", name).removesuffix(IMAGES[kind]) + IMAGES[kind]
    content = joined(data[kind])
    images[file] = content.encode() if kind == "image/svg+xml" else base64.b64decode(content)
    return file


def joined(text: str | Sequence[str]) -> str:
    """Text of a notebook, which is a string or a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def fenced(text: str, language: str) -> str:
    """A code block, without terminal colours; of an overwritten line (`\\r`), the last state is shown."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in ANSI.sub("", text).split("\n")]
    text = "\n".join(lines).strip("\n")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{text}\n{fence}" if text else ""
