"""Imports point downwards only, modules do not import each other in cycles, and densevit never imports a plugin."""

import ast
import functools
from collections.abc import Iterator

from tools.conventions.docstrings import public_names
from tools.conventions.tree import Problem, Tree

# From the top down; a row may import itself and every row below it.
ROWS = (
    ("cli",),
    ("testing",),
    ("training",),
    ("inference", "exporting"),
    ("reporting",),
    ("drawing",),
    ("weights",),
    ("data", "evaluation"),
    ("model",),
    ("config",),
    ("targets",),
    ("registry",),
    ("set_prediction",),
    ("interfaces",),
    ("losses",),
    ("layers",),
    ("channels", "errors", "terminal", "progress", "allocator", "atomic_io", "file_lock", "paths"),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}
FOR_TRAINING = ("predictor", "loading", "file_model")
"""The modules of inference that training may import: it evaluates and loads models, and builds none with them."""
OPEN_TO_PLUGINS = {"set_prediction", "interfaces", "layers", "losses", "errors"}
OPEN_MODULES = {f"densevit.weights.{name}" for name in ("layouts", "label_sets", "positions", "state")}  # for layouts
OPEN_MODULES |= {"densevit.weights.hub"}  # for backbones that load published weights
WORKBENCH = "densevit_workbench"


@functools.cache
def imports(tree: Tree, file: str, package: str) -> list[tuple[str, int]]:
    """All imported names of a file with their lines, nested and TYPE_CHECKING imports included.

    package: the package that the file is in, for relative imports.
    """
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree.module(file)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def sources(tree: Tree, folder: str) -> list[tuple[str, str]]:
    """The source files of a package, each with the package that it is in. folder: the package's folder."""
    above = f"{folder.rpartition('/')[0]}/".lstrip("/")
    files = tree.files(f"{folder}/**/*.py")
    return [(file, file.removeprefix(above).rpartition("/")[0].replace("/", ".")) for file in files]


def plugin_packages(tree: Tree) -> list[str]:
    """The folders of the packages in plugins/."""
    return [file.rpartition("/")[0] for file in tree.files("plugins/*/__init__.py")]


def top(module: str) -> str:
    return module.partition(".")[0]


def part_of(module: str) -> str:
    """The row entry that a densevit module belongs to; empty for densevit itself."""
    return module.partition(".")[2].partition(".")[0]


def densevit_imports_no_plugin(tree: Tree) -> Iterator[Problem]:
    packages = {folder.rpartition("/")[2] for folder in plugin_packages(tree)}
    for file, package in sources(tree, "densevit"):
        for module, line in imports(tree, file, package):
            if top(module) in packages:
                yield Problem(file, line, f"it imports the plugin {module}", "find the plugin by densevit.registry")


def imports_point_downwards(tree: Tree) -> Iterator[Problem]:
    """Each module of densevit belongs to a row, and imports from its own and the rows below."""
    for file, package in sources(tree, "densevit"):
        own = part_of(package) or file.rpartition("/")[2].removesuffix(".py")
        if own in ("__init__", "__main__"):  # densevit itself imports each public name when it is first used
            continue
        if own not in ROW_OF:
            yield Problem(file, 1, f"{own} belongs to no row of the design", f"add it to ROWS in {__name__}")
            continue
        for module, line in imports(tree, file, package):
            part = part_of(module)
            if top(module) == "densevit" and ROW_OF.get(part, len(ROWS)) < ROW_OF[own]:
                yield Problem(file, line, f"{own} imports {part}, which is above it", "pass the value as an argument")


def training_evaluates_and_loads(tree: Tree) -> Iterator[Problem]:
    """Training imports only those modules of inference that evaluate and load models, without `create_model`."""
    allowed = {f"densevit.inference.{name}" for name in FOR_TRAINING}
    for file, package in sources(tree, "densevit/training"):
        for module, line in imports(tree, file, package):
            above, _, name = module.rpartition(".")
            is_allowed = module in allowed or (above in allowed and name != "create_model")
            if f"{module}.".startswith("densevit.inference.") and not is_allowed:
                yield Problem(file, line, f"training imports {module}", "move what builds models to densevit.weights")


def modules_have_no_cycles(tree: Tree) -> Iterator[Problem]:
    for folder in ["densevit", *plugin_packages(tree)]:
        graph = module_graph(tree, folder)
        for component in sorted(map(sorted, cycles({module: set(targets) for module, targets in graph.items()}))):
            first = component[0]
            target = next(module for module in component if module in graph[first])
            file, line = graph[first][target]
            found = f"modules import each other: {', '.join(component)}"
            yield Problem(file, line, found, "move what they share into a module of its own")


def module_graph(tree: Tree, folder: str) -> dict[str, dict[str, tuple[str, int]]]:
    """The modules of a package, each with the modules of the package that it imports, and where: file and line.

    A name imported from a package is its submodule of that name, if there is one, else the package.
    """
    files = sources(tree, folder)
    module_of = {
        file: package if file.endswith("/__init__.py") else f"{package}.{file.rpartition('/')[2].removesuffix('.py')}"
        for file, package in files
    }
    graph: dict[str, dict[str, tuple[str, int]]] = {module: {} for module in module_of.values()}
    for file, package in files:
        for target, line in imports(tree, file, package):
            while target and target not in graph:
                target = target.rpartition(".")[0]
            if target and target != module_of[file]:
                graph[module_of[file]].setdefault(target, (file, line))
    return graph


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The strongly connected components with two or more modules: each reaches all the others of its component."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {module: reached(module) for module in graph}
    components = {frozenset({m, *(n for n in reach[m] if m in reach[n])}) for m in graph}
    return {component for component in components if len(component) > 1}


def private_names_are_not_imported(tree: Tree) -> Iterator[Problem]:
    """A name of densevit or of a plugin that begins with an underscore is used in its own module only."""
    for folder in ["densevit", *plugin_packages(tree)]:
        for file, package in sources(tree, folder):
            for name, line in imports(tree, file, package):
                is_private = any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
                if name.startswith("densevit") and is_private:
                    yield Problem(file, line, f"it imports the private name {name}", "make it public, or move it")


def plugins_import_what_is_open(tree: Tree) -> Iterator[Problem]:
    """The workbench is made of all of densevit; only nothing depends on it."""
    public = public_names(tree)
    for folder in plugin_packages(tree):
        for file, package in sources(tree, folder) if folder != f"plugins/{WORKBENCH}" else []:
            for module, line in imports(tree, file, package):
                is_open = part_of(module) in OPEN_TO_PLUGINS or module.rpartition(".")[0] in OPEN_MODULES
                if top(module) == "densevit" and not is_open and module.removeprefix("densevit.") not in public:
                    yield Problem(file, line, f"it imports {module}", "import densevit's interfaces or public names")


def plugin_packages_are_independent(tree: Tree) -> Iterator[Problem]:
    """They do not import each other; what the workbench needs to know of a plugin is registered in the workbench."""
    folders = plugin_packages(tree)
    names = {folder.rpartition("/")[2] for folder in folders}
    for folder in folders:
        others = names - {folder.rpartition("/")[2]}
        for file, package in sources(tree, folder):
            for module, line in imports(tree, file, package):
                if top(module) in others:
                    yield Problem(
                        file, line, f"it imports {module} of another plugin", "move what both need to densevit"
                    )
