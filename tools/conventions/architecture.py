"""docs/development/architecture.md has the packages in the order that import-linter checks, and short walks through
few files."""

import ast
import itertools
import re
from collections.abc import Iterator

from importlinter.api import read_configuration

from tools.conventions.tree import Problem, Tree

PAGE = "docs/development/architecture.md"
STEP = re.compile(r"((?:`[\w.]+`(?: and |, ))*`[\w.]+`) in `([\w/]+\.py)`")
MOST_FILES = {  # of a walk, with those that they import
    "A config through `fit`": 71,
    "An override to its value": 13,
    "In each step": 34,
    "A folder through `predict`": 28,
    "Another project's checkpoint to a model": 25,
    "The polygons of a COCO file to Mask2Former's loss": 25,
}
LONGEST = 500
ROOTS = ("", "plugins/")
SECTIONS = "schema|data_schema|model_schema|training_schema|sections|key_types|frozen_mapping|values|__init__"
NOT_COUNTED = re.compile(rf"densevit/(errors|terminal|progress|interfaces/\w+|config/({SECTIONS}))\.py")


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
    """Each step is defined in its file, and none of the files is long."""
    for walk in section(tree, "Walks").split("\n### ")[1:]:
        heading = walk.partition("\n")[0]
        line = tree.line_of(PAGE, f"### {heading}")
        table = "\n".join(re.findall(r"^\|.*", walk, re.MULTILINE))
        steps = [(name, file) for names, file in STEP.findall(table) for name in re.findall(r"`([\w.]+)`", names)]
        files = {file for _, file in steps if tree.exists(file)}
        for name, file in steps:
            if name not in (definitions(tree.module(file)) if file in files else ()):
                yield Problem(PAGE, line, f"{name} is not defined in {file}", "correct the name or its file")
        for file in sorted(files) if heading in MOST_FILES else ():
            if (length := len(tree.text(file).splitlines())) > LONGEST:
                yield Problem(PAGE, line, f"the walk leads to {file} with {length} lines", f"at most {LONGEST}")


def walks_import_few_files(tree: Tree) -> Iterator[Problem]:
    """The files that a walk names, and the first-party files that these import, are few: a module that needs many does
    too many things."""
    for walk in section(tree, "Walks").split("\n### ")[1:]:
        heading = walk.partition("\n")[0]
        files = {file for file in re.findall(r"`([\w/]+\.py)`", walk) if tree.exists(file)}
        files |= {imported for file in files for imported in imports_of(tree, file) if not NOT_COUNTED.match(imported)}
        if len(files) > (most := MOST_FILES.get(heading, len(files))):
            message = f"the walk has {len(files)} files with those that they import: {', '.join(sorted(files))}"
            yield Problem(PAGE, tree.line_of(PAGE, f"### {heading}"), message, f"let them import fewer, {most} in all")


def imports_of(tree: Tree, file: str) -> set[str]:
    """The first-party files that a file imports, also in its functions, and not for annotations only."""
    names, nodes = list[str](), list[ast.AST]([tree.module(file)])
    for node in nodes:
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    modules = (file_of(tree, name) or file_of(tree, name.rpartition(".")[0]) for name in names)
    return {module for module in modules if module is not None}


def file_of(tree: Tree, name: str) -> str | None:
    """The file of a first-party module; None if there is none of this name."""
    path = name.replace(".", "/")
    return next(filter(tree.exists, (f"{root}{path}{end}" for root in ROOTS for end in (".py", "/__init__.py"))), None)


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
