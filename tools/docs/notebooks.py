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
    """Converts the cells of a notebook (nbformat 4) and their outputs, in their order."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    parts: list[str] = []
    images: dict[str, bytes] = {}
    for number, cell in enumerate(notebook["cells"], 1):
        source = joined(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else fenced(source, "python"))
        for i, output in enumerate(cell.get("outputs", []), 1):
            parts.append(_output(output, f"{file.stem}-{number}-{i}", images))
    return Page("\n\n".join(filter(None, parts)) + "\n", images)


def _output(output: Mapping[str, Any], name: str, images: dict[str, bytes]) -> str:
    """The Markdown of one output of a code cell."""
    if output["output_type"] == "stream":
        return fenced(joined(output["text"]), "text")
    data = output["data"]
    if media_type := next((media_type for media_type in IMAGES if media_type in data), None):
        content = joined(data[media_type])
        images[name + IMAGES[media_type]] = (
            content.encode() if media_type == "image/svg+xml" else base64.b64decode(content)
        )
        alternative = re.sub(r"[\[\]]", "", " ".join(joined(data.get("text/plain", "output")).split()))
        return f"![{alternative}]({name}{IMAGES[media_type]})"
    if "text/markdown" in data:
        return joined(data["text/markdown"])
    return fenced(joined(data.get("text/plain", "")), "text")


def joined(text: str | Sequence[str]) -> str:
    """Text of a notebook, which is a string or a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def fenced(text: str, language: str) -> str:
    """A code block, without terminal colours."""
    text = ANSI.sub("", text).strip("\n")
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{text}\n{fence}" if text else ""
