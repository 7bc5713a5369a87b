"""Imports go one way, from the command line down to the errors, and never from densevit into a plugin."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the top down; a row may import its own and every row below it.
ROWS = (
    ("cli",),
    ("training", "inference", "export", "visualization", "testing", "scaffold"),
    ("model", "weights", "data", "evaluation"),
    ("registry", "config", "options", "interfaces"),
    ("layers", "losses"),
    ("errors",),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}
OPEN_TO_PLUGINS = {"interfaces", "layers", "losses", "errors"}


def imports(file: Path, package: str) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, at any depth of its code, with the line. package: where the file is."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def files(root: Path, name: str) -> list[tuple[Path, str]]:
    """The sources of a package, each with the package that it is in."""
    found = []
    for file in sorted(root.rglob("*.py")):
        found.append((file, ".".join([name, *file.parent.relative_to(root).parts])))
    return found


def part_of(module: str) -> str:
    """The row entry that a densevit module belongs to; empty for densevit itself."""
    return module.partition(".")[2].partition(".")[0]


def test_densevit_never_imports_a_plugin(project):
    packages = {folder.name for folder in (project / "plugins").iterdir() if folder.is_dir()}
    for file, package in files(project / "densevit", "densevit"):
        for module, line in imports(file, package):
            assert module.split(".")[0] not in packages, f"{file}:{line} imports the plugin {module}"


def test_imports_never_go_upwards(project):
    for file, package in files(project / "densevit", "densevit"):
        own = part_of(package) or file.stem
        if own in ("__init__", "__main__"):  # densevit itself: the public names, each imported when it is first used
            continue
        assert own in ROW_OF, f"{file} belongs to no row of the design"
        for module, line in imports(file, package):
            part = part_of(module)
            if module.split(".")[0] == "densevit" and part in ROW_OF:
                assert ROW_OF[part] >= ROW_OF[own], f"{file}:{line}: {own} imports {part}, which stands above it"


def test_plugins_see_interfaces_layers_losses_and_errors_only(project):
    for folder in (project / "plugins").iterdir():
        for file, package in files(folder, folder.name) if folder.is_dir() else []:
            for module, line in imports(file, package):
                if module.split(".")[0] == "densevit":
                    assert part_of(module) in OPEN_TO_PLUGINS, f"{file}:{line} imports {module}"


def test_plugin_packages_do_not_import_one_another(project):
    folders = [folder for folder in (project / "plugins").iterdir() if (folder / "__init__.py").is_file()]
    for folder in folders:
        others = {other.name for other in folders} - {folder.name}
        for file, package in files(folder, folder.name):
            for module, line in imports(file, package):
                assert module.split(".")[0] not in others, f"{file}:{line} imports {module}"


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("def f():\n    from densevit.cli import main", "densevit.data", ["densevit.cli.main"]),
        ("from ..cli import main", "densevit.data", ["densevit.cli.main"]),
        ("from . import coco", "densevit.data", ["densevit.data.coco"]),
        ("import densevit.cli as c, torch", "densevit.data", ["densevit.cli", "torch"]),
        ("from densevit import cli", "densevit.data", ["densevit.cli"]),
    ],
)
def test_all_ways_to_import_are_seen(tmp_path, source, package, expected):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert [module for module, _ in imports(file, package)] == expected
