"""Reads the docstrings of plugins from their source files, without importing the plugins."""

import ast
import importlib.machinery
import importlib.util
from pathlib import Path

from densevit.errors import one_line
from densevit.registry.groups import Plugin


def first_line(plugin: Plugin) -> str:
    """The first line of the class's docstring, from the source file, without importing it; "" without a docstring.

    For an instance or a command, the first line of the module's docstring.
    """
    module, _, attribute = plugin.value.partition(":")
    try:
        return _docstring(module, attribute, hops=5).partition("\n")[0]
    except Exception as error:  # an invalid source file; `__main__` has none
        return f"(unreadable: {one_line(error)})"


def _docstring(module: str, name: str, hops: int) -> str:
    """The docstring of a class, a function, or an instance's module, from the source file. name: "" for a module.

    Follows at most `hops` `from ... import` statements.
    """
    source = _source(module)
    if source is None:
        return ""
    package = module.split(".") if source.name == "__init__.py" else module.split(".")[:-1]
    tree = ast.parse(source.read_text(encoding="utf-8"))
    if not name:
        return ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return ast.get_docstring(tree) or ""
        if isinstance(node, ast.ImportFrom) and hops:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    above = package[: len(package) + 1 - node.level] if node.level else []
                    return _docstring(".".join([*above, *filter(None, [node.module])]), alias.name, hops - 1)
    return ""


def _source(module: str) -> Path | None:
    """The source file of a module. Imports no parent package, unlike `importlib.util.find_spec`."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    for name in below:
        top = f"{top}.{name}"
        locations = spec.submodule_search_locations if spec else None
        spec = importlib.machinery.PathFinder.find_spec(top, locations) if locations else None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
