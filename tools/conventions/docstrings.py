"""Docstrings that exist: those of the public names and of modules."""

import ast
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree

STUB = "densevit/__init__.pyi"
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_names(tree: Tree) -> dict[str, str]:
    """The names of `densevit.__all__`, each with its module."""
    imports = [node for node in tree.module(STUB).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def public_names_have_docstrings(tree: Tree) -> Iterator[Problem]:
    for name, module in public_names(tree).items():
        place = definition(tree, module, name)
        if place is None:
            line = tree.line_of(STUB, rf"\bimport {name}\b")
            yield Problem(STUB, line, f"{module} defines no class or function {name}", "correct the module")
        elif ast.get_docstring(place[1]) is None:
            file, node = place
            yield Problem(file, node.lineno, f"the public name {name} has no docstring", "add one")


def modules_have_docstrings(tree: Tree) -> Iterator[Problem]:
    for file in tree.files("densevit/**/*.py", "plugins/**/*.py", "tools/**/*.py", "examples/**/*.py"):
        if tree.text(file).strip() and ast.get_docstring(tree.module(file)) is None:
            yield Problem(file, 1, "the module has no docstring", "say what it is for")


def definition(tree: Tree, module: str, name: str) -> tuple[str, Definition] | None:
    """The file and the definition of a name, by the imports of the modules that pass it on."""
    path = module.replace(".", "/")
    candidates = [f"{folder}{path}{end}" for folder in ("", "plugins/") for end in (".py", "/__init__.py")]
    file = next(filter(tree.exists, candidates), None)
    for node in tree.module(file).body if file else []:
        if isinstance(node, Definition) and node.name == name:
            return str(file), node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(tree, str(node.module), alias.name)
    return None


def version(tree: Tree) -> str:
    """`__version__` of densevit."""
    for node in tree.module("densevit/__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise ValueError("densevit/__init__.py has no __version__")
