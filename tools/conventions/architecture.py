"""docs/development/architecture.md has the packages in the order that import-linter checks, and short walks."""

import ast
import itertools
import re
from collections.abc import Iterator

from importlinter.api import read_configuration

from tools.conventions.tree import Problem, Tree

PAGE = "docs/development/architecture.md"
STEP = re.compile(r"((?:`[\w.]+`(?: and |, ))*`[\w.]+`) in `([\w/]+\.py)`")
MOST_FILES = {
    "A config through `fit`": 9,
    "An override to its value": 6,
    "In each step": 6,
    "A folder through `predict`": 6,
    "Another project's checkpoint to a model": 6,
    "The polygons of a COCO file to Mask2Former's loss": 8,
}
LONGEST = 300


def packages_are_the_layers(tree: Tree) -> Iterator[Problem]:
    """The table of the packages of densevit has the layers of import-linter's first contract, in `pyproject.toml`."""
    contracts = read_configuration(str(tree.root / "pyproject.toml"))["contracts_options"]
    layers = [set(re.findall(r"\w+", layer)) for layer in contracts[0]["layers"]]
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section(tree, "Packages"), re.MULTILINE)
    rows = [set(re.findall(r"\w+", cell)) for cell in cells]
    for row, layer in itertools.zip_longest(rows, layers, fillvalue=set[str]()):
        if row != layer:
            listed, expected = (", ".join(sorted(names)) or "no row" for names in (row, layer))
            line = tree.line_of(PAGE, f"| `{next(iter(row))}`" if len(row) == 1 else "## Packages")
            yield Problem(PAGE, line, f"the table has {listed}, the contract {expected}", "make them equal")
            return


def walks_are_short(tree: Tree) -> Iterator[Problem]:
    """Each step is defined in its file. Walks name few files, and none is long."""
    for walk in section(tree, "Walks").split("\n### ")[1:]:
        heading = walk.partition("\n")[0]
        line = tree.line_of(PAGE, f"### {heading}")
        table = "\n".join(re.findall(r"^\|.*", walk, re.MULTILINE))
        steps = [(name, file) for names, file in STEP.findall(table) for name in re.findall(r"`([\w.]+)`", names)]
        files = {file for _, file in steps if tree.exists(file)}
        for name, file in steps:
            if name not in (definitions(tree.module(file)) if file in files else ()):
                yield Problem(PAGE, line, f"{name} is not defined in {file}", "correct the name or its file")
        if len(files) > MOST_FILES.get(heading, len(files)):
            yield Problem(PAGE, line, f"the walk has {len(files)} files", f"let a reader open {MOST_FILES[heading]}")
        for file in sorted(files) if heading in MOST_FILES else ():
            if (length := len(tree.text(file).splitlines())) > LONGEST:
                yield Problem(PAGE, line, f"the walk leads to {file} with {length} lines", f"at most {LONGEST}")


def section(tree: Tree, heading: str) -> str:
    """The text of a section of the page."""
    return tree.text(PAGE).partition(f"## {heading}\n")[2].partition("\n## ")[0]


def definitions(module: ast.Module) -> set[str]:
    """The functions and classes at the top level of a file, and the methods of its classes as `Class.method`."""
    names = set[str]()
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names
