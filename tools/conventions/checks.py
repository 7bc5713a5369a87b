"""A function named check raises or returns: it changes none of its arguments, nor the object that it is a method of."""

import ast
import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree

_CHANGES = (
    *("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault"),
    *("sort", "update"),
)


def checks_change_nothing(tree: Tree) -> Iterator[Problem]:
    for file in tree.files("densevit/**/*.py", "plugins/**/*.py"):
        for function in ast.walk(tree.module(file)):
            if isinstance(function, ast.FunctionDef) and re.fullmatch(r"_?check(_\w+)?", function.name):
                for line, changed in _changed(function):
                    message = f"{function.name} changes {changed}"
                    yield Problem(file, line, message, "return the result, or name what it does")


def _changed(function: ast.FunctionDef) -> Iterator[tuple[int, str]]:
    """Where a function assigns to a part of an argument, or calls a method that changes it."""
    signature = function.args
    arguments = {argument.arg for argument in (*signature.posonlyargs, *signature.args, *signature.kwonlyargs)}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            target: ast.expr = node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
            target = node.func.value
        else:
            continue
        if _variable(target) in arguments:
            yield target.lineno, ast.unparse(target)


def _variable(node: ast.expr) -> str:
    """The variable of an attribute or an item: "config" of `config.heads[name]`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
