"""Imports point downwards only, modules do not import each other in cycles, and densevit never imports a plugin."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import densevit

# From the top down; a row may import itself and every row below it.
ROWS = (
    ("cli",),
    ("testing",),
    ("training",),
    ("inference", "exporting"),
    ("visualization",),
    ("weights",),
    ("data", "evaluation"),
    ("config",),
    ("model",),
    ("targets",),
    ("registry",),
    ("set_prediction",),
    ("interfaces",),
    ("losses",),
    ("layers",),
    ("errors", "terminal", "streams", "atomic_io", "file_lock"),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}
KNOWN_CYCLES: dict[frozenset[str], str] = {}  # the modules of a cycle -> the reason
OPEN_TO_PLUGINS = {"set_prediction", "interfaces", "layers", "losses", "errors"}
OPEN_MODULES = {f"densevit.weights.{name}" for name in ("layouts", "label_sets", "positions", "state")}  # for layouts
OPEN_MODULES |= {"densevit.weights.hub"}  # for backbones that load published weights


WORKBENCH = "densevit_workbench"
PROTOCOLS = {f"{WORKBENCH}.inspection.{name}" for name in ("attention_layers", "objects")}  # in methods for the tool


def top_level_imports(file: Path) -> set[int]:
    """The lines of imports outside of functions."""
    body = ast.parse(file.read_text()).body
    return {node.lineno for node in body if isinstance(node, ast.Import | ast.ImportFrom)}


def imports(file: Path, package: str) -> Iterator[tuple[str, int]]:
    """Yields all imported names of a file with their lines, nested and TYPE_CHECKING imports included.

    package: the package that the file is in, for relative imports.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def files(root: Path, name: str) -> list[tuple[Path, str]]:
    """The source files of a package, each with the package that it is in."""
    return [(file, ".".join([name, *file.parent.relative_to(root).parts])) for file in sorted(root.rglob("*.py"))]


def module_graph(root: Path, name: str) -> dict[str, set[str]]:
    """The modules of a package, each with the modules of the package that it imports.

    A name imported from a package is its submodule of that name, if there is one, else the package.
    """
    sources = files(root, name)
    module_of = {file: package if file.stem == "__init__" else f"{package}.{file.stem}" for file, package in sources}
    graph: dict[str, set[str]] = {module: set() for module in module_of.values()}
    for file, package in sources:
        for target, _ in imports(file, package):
            while target and target not in graph:
                target = target.rpartition(".")[0]
            if target and target != module_of[file]:
                graph[module_of[file]].add(target)
    return graph


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected components with two or more modules: each reaches all the others of its component."""

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for target in graph[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {module: reached(module) for module in graph}
    components = {frozenset({m, *(n for n in reach[m] if m in reach[n])}) for m in graph}
    return {component for component in components if len(component) > 1}


def part_of(module: str) -> str:
    """The row entry that a densevit module belongs to; empty for densevit itself."""
    return module.partition(".")[2].partition(".")[0]


def test_densevit_never_imports_a_plugin(project):
    packages = {folder.name for folder in (project / "plugins").iterdir() if folder.is_dir()}
    for file, package in files(project / "densevit", "densevit"):
        for module, line in imports(file, package):
            assert module.split(".")[0] not in packages, f"{file}:{line} imports the plugin {module}"


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[", ".join(parts) for parts in ROWS])
def test_imports_point_downwards(project, row):
    for file, package in files(project / "densevit", "densevit"):
        own = part_of(package) or file.stem
        if own not in ROWS[row]:
            continue
        for module, line in imports(file, package):
            part = part_of(module)
            if module.split(".")[0] == "densevit" and part in ROW_OF:
                assert ROW_OF[part] >= row, f"{file}:{line}: {own} imports {part}, which is above it"


def test_the_model_imports_neither_config_nor_data_nor_evaluation():
    assert all(ROW_OF[part] < ROW_OF["model"] for part in ("config", "data", "evaluation"))


def test_every_module_belongs_to_a_row(project):
    for file, package in files(project / "densevit", "densevit"):
        own = part_of(package) or file.stem
        # densevit itself exports the public names and imports each when it is first used.
        assert own in ROW_OF or own in ("__init__", "__main__"), f"{file} belongs to no row of the design"


def test_modules_have_no_import_cycles(project):
    found = cycles(module_graph(project / "densevit", "densevit"))
    for folder in (project / "plugins").iterdir():
        if (folder / "__init__.py").is_file():
            found |= cycles(module_graph(folder, folder.name))
    assert found == set(KNOWN_CYCLES), "modules that import each other (or known cycles that no longer exist)"


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"a": "from made.b import f", "b": "def f():\n    from made import a"}, [{"made.a", "made.b"}]),
        (
            {"a": "from . import b", "b": "import made.sub.c", "sub/c": "from ..a import g"},
            [{"made.a", "made.b", "made.sub.c"}],
        ),
        ({"a": "from .b import B", "b": "if TYPE_CHECKING:\n    from made.a import A"}, [{"made.a", "made.b"}]),
        ({"__init__": "from made.a import A", "a": "from made import A"}, [{"made", "made.a"}]),
        ({"__init__": "from made.a import A", "a": "from made import b", "b": "import torch"}, []),
        ({"a": "import made.b, made.c", "b": "from made.c import x", "c": "x = 1"}, []),
    ],
)
def test_cycles_are_detected(tmp_path, sources, expected):
    for module, source in sources.items():
        file = tmp_path / "made" / f"{module}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    assert cycles(module_graph(tmp_path / "made", "made")) == {frozenset(modules) for modules in expected}


def test_no_module_imports_a_private_name_of_another(project):
    for root in (project / "densevit", *(project / "plugins").iterdir()):
        for file, package in files(root, root.name) if root.is_dir() else []:
            for name, line in imports(file, package):
                is_private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
                assert not (name.startswith("densevit") and is_private), f"{file}:{line} imports {name}"


def test_plugins_import_only_what_is_open_to_them(project):
    """The workbench is made of all of densevit; only nothing depends on it."""
    for folder in {*(project / "plugins").iterdir()} - {project / "plugins" / WORKBENCH}:
        for file, package in files(folder, folder.name) if folder.is_dir() else []:
            for module, line in imports(file, package):
                open_module = part_of(module) in OPEN_TO_PLUGINS or module.rpartition(".")[0] in OPEN_MODULES
                open_module = open_module or module.removeprefix("densevit.") in densevit.__all__
                assert open_module or module.split(".")[0] != "densevit", f"{file}:{line} imports {module}"


def test_plugin_packages_do_not_import_each_other(project):
    folders = [folder for folder in (project / "plugins").iterdir() if (folder / "__init__.py").is_file()]
    for folder in folders:
        others = {other.name for other in folders} - {folder.name}
        for file, package in files(folder, folder.name):
            for module, line in imports(file, package):
                is_protocol = module.rpartition(".")[0] in PROTOCOLS and line not in top_level_imports(file)
                assert is_protocol or module.split(".")[0] not in others, f"{file}:{line} imports {module}"


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
def test_all_import_forms_are_detected(tmp_path, source, package, expected):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert [module for module, _ in imports(file, package)] == expected
