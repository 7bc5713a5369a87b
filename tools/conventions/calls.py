"""What a function calls, in the order of the source: followed through modules, classes and methods, without running."""

import ast
import functools
from typing import NamedTuple

from tools.conventions.tree import Tree

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Place(NamedTuple):
    """A function or class of a file. name: its name; "Class.method" for a method."""

    file: str
    name: str


@functools.cache
def definitions(tree: Tree, file: str) -> dict[str, ast.ClassDef | Function]:
    """The functions and classes at the top level of a file, and the methods of its classes, by name."""
    found: dict[str, ast.ClassDef | Function] = {}
    for node in tree.module(file).body:
        if isinstance(node, ast.ClassDef | Function):
            found[node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}": method for method in node.body if isinstance(method, Function)}
    return found


@functools.cache
def calls(tree: Tree, start: Place) -> list[Place]:
    """The functions and classes that a function calls, directly or not, in the order of their first call.

    Methods are followed on `self` and on classes, private ones on all objects. A function that is an argument counts as
    called. Of a class that is created, its bases and its constructor are followed.
    """
    order: dict[Place, None] = {}

    def follow(place: Place, name: str) -> None:
        """Follows a name that the caller writes, in the file of `place` and the class in its name."""
        found = _resolved(tree, place, name)
        if found is None or not found.name or found in order:
            return
        order[found] = None
        node = definitions(tree, found.file)[found.name]
        if isinstance(node, Function):
            visit(found, node)
            return
        for base in node.bases:
            follow(Place(found.file, found.name), ast.unparse(base))
        if (constructor := Place(found.file, f"{found.name}.__init__")).name in definitions(tree, found.file):
            order[constructor] = None
            visit(constructor, definitions(tree, found.file)[constructor.name])

    def visit(place: Place, function: ast.AST) -> None:
        inner = {node.name: node for node in ast.walk(function) if isinstance(node, Function) and node is not function}
        for name in _called(function):
            if name in inner:
                visit(place, inner.pop(name))
            else:
                follow(place, name)

    first = definitions(tree, start.file)[start.name]
    if isinstance(first, Function):
        visit(start, first)
    else:
        follow(Place(start.file, ""), start.name)
        order.pop(start, None)
    return list(order)


@functools.cache
def _called(function: ast.AST) -> list[str]:
    """The names that are called or passed on, as they are written; the arguments of a call come before it."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, Function):
                visit(child)
        if isinstance(node, ast.Call):
            passed = [*node.args, *(keyword.value for keyword in node.keywords)]
            found.extend(_dotted(one) for one in (*passed, node.func))

    visit(function)
    return [name for name in found if name]


def _dotted(node: ast.expr) -> str:
    """The name of a variable or of its attribute, "module.Class.method"; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


def _resolved(tree: Tree, place: Place, name: str) -> Place | None:
    """The definition of a name as it is written in a place; None for objects, and names of other projects."""
    owner = place.name.partition(".")[0]
    defined = definitions(tree, place.file)
    first, _, rest = name.partition(".")
    if first in ("self", "cls") and owner in defined:
        return _method(tree, Place(place.file, owner), rest) if rest else Place(place.file, owner)
    if first in defined:
        return _method(tree, Place(place.file, first), rest) if rest else Place(place.file, first)
    module = _imported(tree, place.file).get(first)
    if module is None and rest.startswith("_") and owner in defined:  # a private method: of another object of the class
        return _method(tree, Place(place.file, owner), rest)
    return None if module is None else place_of(tree, f"{module}.{rest}" if rest else module)


def _method(tree: Tree, owner: Place, name: str) -> Place | None:
    """A method of a class or of its bases."""
    defined = definitions(tree, owner.file)
    if f"{owner.name}.{name}" in defined:
        return Place(owner.file, f"{owner.name}.{name}")
    node = defined[owner.name]
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    found = (_resolved(tree, Place(owner.file, ""), ast.unparse(base)) for base in bases)
    return next((method for base in found if base and (method := _method(tree, base, name))), None)


@functools.cache
def _imported(tree: Tree, file: str) -> dict[str, str]:
    """The names that a file imports, each with its full name. Relative imports are those of plugins."""
    found: dict[str, str] = {}
    package = file.removeprefix("plugins/").rpartition("/")[0].split("/")
    for node in ast.walk(tree.module(file)):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            found |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return found


def place_of(tree: Tree, name: str) -> Place | None:
    """The definition of a full name, "densevit.config.load", through the modules that import it; of a module, its file
    without a name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = "/".join(parts[:count])
        files = [f"{folder}{path}{end}" for folder in ("", "plugins/") for end in (".py", "/__init__.py")]
        if file := next(filter(tree.exists, files), None):
            return Place(file, "") if count == len(parts) else _resolved(tree, Place(file, ""), ".".join(parts[count:]))
    return None
