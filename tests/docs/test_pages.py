"""The parts of the site's build: notebooks and docstrings as Markdown, pages from files outside of docs/."""

import base64
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
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


def test_site_has_notebooks_examples_and_files_of_the_root(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    shutil.copytree(project / "tools/docs", tmp_path / "tools/docs", ignore=shutil.ignore_patterns("__pycache__"))
    files = {
        "mkdocs.yml": "site_name: x\nuse_directory_urls: false\nhooks: [tools/docs/pages.py]\ntheme: {name: mkdocs}\n"
        "nav:\n- index.md\n- Tutorials: tutorials/\n- Examples: examples/\n- changelog.md\n- contributing.md\n",
        "docs/index.md": "# Start\n\n[t](tutorials/trial.ipynb#trial) [e](../examples/one.py) [c](../CHANGELOG.md) "
        "[x](../examples/README.md)\n",
        "docs/tutorials/index.md": "# Tutorials\n\n[Trial](trial.ipynb), [Another](another.ipynb)\n",
        "docs/tutorials/trial.ipynb": notebook(*TRIAL),
        "docs/tutorials/another.ipynb": notebook({"cell_type": "markdown", "metadata": {}, "source": "# Another"}),
        "examples/one.py": '"""Trains.\n\n    python one.py a\n    python one.py b\n\nText.\n"""\n\nx = 1\n',
        "examples/README.md": "# Examples\n\n[One](one.py), [Net](plugins/net/README.md)\n",
        "examples/plugins/net/README.md": "# net\n\nA backbone.\n",
        "examples/plugins/net/setup.cfg": "[metadata]\nname = net\n",
        "examples/plugins/net/net/__init__.py": '"""A net."""\n\nwidth = 7\n',
        "CHANGELOG.md": "# Changelog\n\n[Start](docs/index.md)\n",
        "CONTRIBUTING.md": "# Contributing\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / "site"
    start = (site / "index.html").read_text()
    for link in ("tutorials/trial.html#trial", "examples/one.html", "changelog.html", "examples/index.html"):
        assert f'href="{link}"' in start
    order = re.findall(r'href="(tutorials/\w+\.html)"', start)  # of the nav: as index.md links them
    assert list(dict.fromkeys(order))[:3] == ["tutorials/index.html", "tutorials/trial.html", "tutorials/another.html"]
    assert 'href="index.html"' in (site / "changelog.html").read_text()
    assert 'src="trial-3-2.png"' in (site / "tutorials/trial.html").read_text()
    assert (site / "tutorials/trial-3-2.png").read_bytes() == png("blue")
    assert (site / "tutorials/trial.ipynb").read_text() == files["docs/tutorials/trial.ipynb"]
    page = (site / "examples/one.html").read_text()
    assert page.index("python one.py b") < page.index("<p>Text.</p>") < page.index("x = 1")
    assert 'href="plugins/net.html"' in (site / "examples/index.html").read_text()
    page = (site / "examples/plugins/net.html").read_text()
    assert (
        page.index("A backbone.") < page.index("name = net") < page.rindex("net/__init__.py<") < page.index("width = 7")
    )
