"""The parts of the site's build: notebooks and docstrings as Markdown, pages from files outside of docs/."""

import base64
import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

NAMES = {"lr", "steps", "beta_1", "beta_2"}


@pytest.fixture(scope="module")
def module(project: Path) -> Callable[[str], ModuleType]:
    """`module("notebooks")` is a module of tools/docs."""

    def module(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, project / f"tools/docs/{name}.py")
        assert spec is not None and spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return module


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, "PNG")
    return file.getvalue()


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def notebook(*cells: dict[str, Any]) -> str:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    metadata = {"tags": list(tags)}
    return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": outputs, "execution_count": 1}


def shown(**data: Any) -> dict[str, Any]:
    kinds = {"png": "image/png", "svg": "image/svg+xml", "plain": "text/plain", "html": "text/html"}
    return {"output_type": "display_data", "metadata": {}, "data": {kinds[key]: value for key, value in data.items()}}


TRIAL = (
    {
        "cell_type": "markdown",
        "metadata": {},
        "source": ["# Trial\n", "\n", "![A](attachment:a.png)"],
        "attachments": {"a.png": {"image/png": coded(png("red"))}},
    },
    code(["x = 1\n", "x"], shown(plain="1")),
    code(
        "train()",
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[1m10 %\x1b[0m\r", "100 %\n", "done\n"]},
        shown(png=coded(png("blue")), plain=["<Figure [size]\n", "4x3>"]),
    ),
    code("secret", tags=("remove-cell",)),
    code("plot()", shown(svg=["<svg/>"], plain="a plot"), tags=("remove-input",)),
    code("'```'", shown(html="<b>x</b>", plain="'```'")),
    code("1 / 0", {"output_type": "error", "ename": "E", "evalue": "e", "traceback": ["\x1b[31mE\x1b[0m: e"]}),
)


def test_notebook_becomes_markdown_and_images(module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    file = tmp_path / "trial.ipynb"
    file.write_text(notebook(*TRIAL))
    page = module("notebooks").convert(file)
    assert page.markdown == (
        "# Trial\n\n![A](trial-1-a.png)\n\n"
        "```python\nx = 1\nx\n```\n\n```text\n1\n```\n\n"
        "```python\ntrain()\n```\n\n```text\n100 %\ndone\n```\n\n![<Figure size 4x3>](trial-3-2.png)\n\n"
        "![a plot](trial-5-1.svg)\n\n"
        "````python\n'```'\n````\n\n````text\n'```'\n````\n\n"
        "```python\n1 / 0\n```\n\n```text\nE: e\n```\n"
    )
    assert page.images == {"trial-1-a.png": png("red"), "trial-3-2.png": png("blue"), "trial-5-1.svg": b"<svg/>"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Steps.\n\nlr: the rate, 0\nto 1. steps: their number. Raises ValueError\nfor none.",
            "Steps.\n\n- `lr`: the rate, 0 to 1.\n- `steps`: their number.\n\nRaises ValueError for none.",
        ),
        ("beta_1, beta_2: (B, *size), a < b.", r"- `beta_1`, `beta_2`: (B, \*size), a \< b."),
        ("A list:\n\n- lr\n- steps\n\n    x = 1\n    y", "A list:\n\n- lr\n- steps\n\n    x = 1\n    y"),
    ],
)
def test_docstring_becomes_markdown(module: Callable[[str], ModuleType], text: str, expected: str) -> None:
    pytest.importorskip("griffe")
    assert module("docstrings").markdown(text, NAMES) == expected
