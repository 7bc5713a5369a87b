"""Writes tests/public_surface.txt: public names with signatures, config keys, plugins, commands and metrics.

    python tools/release/public_surface.py

Public names are those of MODULES and of docs/reference. Signatures are read from the source, so that they are equal on
all versions of Python. A member that is inherited from a public class is listed there only.
"""

import argparse
import ast
import configparser
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from densevit import registry
from densevit.cli import command

ROOT = Path(__file__).resolve().parents[2]
SURFACE = ROOT / "tests" / "public_surface.txt"
MODULES = (
    "densevit",
    *(f"densevit.{name}" for name in ("interfaces", "losses", "metrics", "set_prediction", "testing")),
)


def surface() -> str:
    """The text of the file."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    groups = {
        group: re.findall(r"^([^#\n]+?) = (\S+)", text, re.M) for group, text in setup["options.entry_points"].items()
    }
    sections = {
        "names": [line for name, source in public_names().items() for line in described(name, *source)],
        "config keys": [
            line
            for file in sorted((ROOT / "densevit/config").glob("*schema.py"))
            for section, node in contents(f"densevit.config.{file.stem}").items()
            if isinstance(node, ast.ClassDef)
            for line in described(section, f"densevit.config.{file.stem}", node)
            if re.match(r"\w+\.\w+:", line)
        ],
        "plugins": [f"{group}: {name}{options(value)}" for group, plugins in groups.items() for name, value in plugins],
        "commands": [line for name, _ in groups["densevit.commands"] for line in flags(name)],
        "metrics": [
            f"{name}: {metric}"
            for name, _ in groups["densevit.evaluators"]
            for metric in registry.load("evaluators", name)(classes=["CLASS"]).metrics()
        ],
    }
    return "\n".join("\n".join([f"[{title}]", *lines, ""]) for title, lines in sections.items())


@cache
def public_names() -> dict[str, tuple[str, Any]]:
    """The public names, sorted, with their definitions."""
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs/reference").glob("*.md")]
    names = {f"{module}.{name}" for module in MODULES for name in contents(module) if name[0] != "_"}
    names |= {name for page in pages for name in re.findall(r"^::: (\S+)", page, re.M)}
    return {name: source for name in sorted(names) if (source := definition(*name.rsplit(".", 1)))}


@cache
def contents(module: str) -> dict[str, Any]:
    """The definitions of a module by name; for an import the module and the name there. Another project's: none."""
    files = [
        ROOT / room / f"{module.replace('.', '/')}{end}"
        for room in ("", "plugins")
        for end in (".pyi", "/__init__.pyi", ".py", "/__init__.py")
    ]
    body = ast.parse(next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")).body
    imports = [(node.module, name) for node in body if isinstance(node, ast.ImportFrom) for name in node.names]
    return {name.asname or name.name: (source, name.name) for source, name in imports} | definitions(body)


def definitions(body: list[ast.stmt]) -> dict[str, Any]:
    """The classes, functions and variables of a module or class."""
    names = {
        name: node
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for name in re.findall(r"\w+", re.split(" = |: ", ast.unparse(node))[0])
    }
    return names | {node.name: node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def definition(module: str, name: str) -> tuple[str, Any] | None:
    """The module and the node of a definition, through imports. None: another project's."""
    node = contents(module).get(name)
    return definition(*node) if isinstance(node, tuple) else node and (module, node)


def described(path: str, module: str, node: Any) -> Iterator[str]:
    """A line of a definition, and those of the public members of a class."""
    if isinstance(node, ast.ClassDef):
        yield f"class {path}({', '.join(map(ast.unparse, node.bases))})"
        for name, member in members(module, node).items():
            yield from described(f"{path}.{name}", *member)
    elif isinstance(node, ast.FunctionDef):
        kinds = " ".join(word for word in map(ast.unparse, node.decorator_list) if re.search("property|method", word))
        yield f"{kinds} {path}({ast.unparse(node.args)}) -> {node.returns and ast.unparse(node.returns)}".strip()
    else:
        yield path + re.sub(r"^[^:=]*?(?= =|:)", "", ast.unparse(node))


def members(module: str, node: ast.ClassDef) -> dict[str, tuple[str, Any]]:
    """The public members of a class, also those that it inherits from classes that are not public."""
    bases = [definition(module, ast.unparse(base).partition("[")[0]) for base in node.bases]
    internal = [base for base in bases if base and base not in public_names().values()]
    names = {name: member for base in internal for name, member in members(*base).items()}
    names |= {name: (module, member) for name, member in definitions(node.body).items()}
    return {name: member for name, member in names.items() if re.match("[^_]|__(init|call|getitem|iter|len)__$", name)}


def options(value: str) -> str:
    """The parameters of the plugin `module:Class`; empty if they are those of its interface, and of other objects."""
    plugin = definition(*value.partition(":")[::2])
    constructor = members(*plugin).get("__init__") if plugin and isinstance(plugin[1], ast.ClassDef) else None
    return f"({ast.unparse(constructor[1].args)})" if constructor else ""


def flags(name: str) -> Iterator[str]:
    """The arguments of a command, with their number, choices and default."""
    for action in command(name)[1]._actions[1:]:  # without --help
        parts = (*(action.option_strings or [action.dest]), action.nargs, action.choices, action.default)
        yield " ".join(["densevit", name, *(str(part) for part in parts if part and part != argparse.SUPPRESS)])


if __name__ == "__main__":
    SURFACE.write_text(surface(), encoding="utf-8")
