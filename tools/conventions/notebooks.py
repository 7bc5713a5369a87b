"""Saved notebooks: the outputs of one complete run, small, and without traces of a machine."""

import json
import re
from collections.abc import Iterator
from typing import Any

import nbformat

from tools.conventions.calls import definitions
from tools.conventions.tree import Problem, Tree

FOLDER = "docs/tutorials"
INDEX = f"{FOLDER}/index.md"
TESTS = "tests/docs/test_tutorials.py"
MAX_BYTES, MAX_BYTES_OF_ALL, MAX_CHARACTERS_OF_IMAGE = 600_000, 1_500_000, 100_000
TRACES = re.compile(r"(?<![\w.:/])/(tmp|home|root|Users|usr|opt|work|mnt)/|[━╸]|UserWarning")
RUN = "run it again with tools/docs/run_tutorials.py"


def notebooks_are_tested_and_in_the_index(tree: Tree) -> Iterator[Problem]:
    notebooks = {file.split("/")[-1].removesuffix(".ipynb"): file for file in tree.files(f"{FOLDER}/*.ipynb")}
    links = [(number, name) for number, line in tree.lines(INDEX) for name in re.findall(r"\]\((\w+)\.ipynb\)", line)]
    for name, file in notebooks.items():
        if f"test_{name}" not in definitions(tree, TESTS):
            yield Problem(file, 1, f"{TESTS} has no test_{name}", "add a test that runs it")
        if [linked for _, linked in links].count(name) != 1:
            yield Problem(INDEX, 1, f"{name}.ipynb is not linked once", "add or remove a link")
    for number, name in links:
        if name not in notebooks:
            yield Problem(INDEX, number, f"there is no {name}.ipynb", "correct the link")
    total = sum(tree.size(file) for file in tree.files(f"{FOLDER}/*"))
    if total >= MAX_BYTES_OF_ALL:
        yield Problem(
            INDEX, 1, f"the files of the folder have {total:,} bytes", f"keep them below {MAX_BYTES_OF_ALL:,}"
        )


def notebooks_hold_the_outputs_of_one_run(tree: Tree) -> Iterator[Problem]:
    for file in tree.files(f"{FOLDER}/*.ipynb"):
        notebook = json.loads(tree.text(file))
        try:
            nbformat.validate(notebook)
        except nbformat.ValidationError as error:
            yield Problem(file, 1, f"the file is no valid notebook: {str(error).splitlines()[0]}", RUN)
            continue
        if tree.size(file) >= MAX_BYTES:
            yield Problem(file, 1, f"the file has {tree.size(file):,} bytes", f"keep it below {MAX_BYTES:,}")
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        outputs = [output for cell in cells for output in cell["outputs"]]
        if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
            yield Problem(file, 1, "the cells were not run once, in their order", RUN)
        if any("execution" in cell["metadata"] for cell in cells):
            yield Problem(file, tree.line_of(file, '"execution": '), "a cell has timestamps", RUN)
        if any(output["output_type"] == "error" for output in outputs):
            yield Problem(file, tree.line_of(file, '"output_type": "error"'), "the output of a cell is an error", RUN)
        if any(len(image) >= MAX_CHARACTERS_OF_IMAGE for output in outputs for image in images(output)):
            found = f"an image has {MAX_CHARACTERS_OF_IMAGE:,} characters or more"
            yield Problem(file, 1, found, "draw a smaller one, or save it as JPEG")
        trace = next((match for output in outputs for text in texts(output) if (match := TRACES.search(text))), None)
        if trace is not None:
            yield Problem(file, tree.line_of(file, re.escape(trace[0])), f"an output has {trace[0]!r}", RUN)


def texts(output: dict[str, Any]) -> list[str]:
    """The texts of an output."""
    found = [output.get("text", ""), *(value for kind, value in output.get("data", {}).items() if "text/" in kind)]
    return ["".join(text) for text in found]


def images(output: dict[str, Any]) -> list[str]:
    """The images of an output, coded as text."""
    found = output.get("data", {}).items()
    return ["".join(value) for kind, value in found if kind in ("image/jpeg", "image/png")]
