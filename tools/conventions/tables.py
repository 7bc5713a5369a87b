"""Tables and lists of pages that name plugins, public names, layouts and config keys: they are complete."""

import ast
import re
from collections.abc import Iterator

from tools.conventions.docstrings import public_names
from tools.conventions.tree import Problem, Tree, rows

SECTIONS = (
    *("BackboneSection", "HeadSection", "DataSection", "OptimSection", "TrainerSection", "InferenceSection"),
    "Config",
)


def reference_index_lists_the_public_names(tree: Tree) -> Iterator[Problem]:
    """docs/reference/index.md has a row for each page of the folder, with the public names that the page documents."""
    index = "docs/reference/index.md"
    listed: dict[str, tuple[int, set[str]]] = {}
    for row in rows(tree.lines(index)):
        match = re.fullmatch(r"\[.+\]\((\w+\.md)\)", row.cells[0])
        if match:
            listed[match[1]] = (row.line, {*re.findall(r"`(\w+)`", row.cells[-1])})
    for page in tree.files("docs/reference/*.md"):
        name = page.rpartition("/")[2]
        documented = {*re.findall(r"^::: densevit\.(\w+)$", tree.text(page), re.MULTILINE)}
        if page == index:
            continue
        if name not in listed:
            yield Problem(index, 1, f"{name} has no row", f"add one with the names that {page} documents")
            continue
        line, names = listed[name]
        for missing in sorted(documented - names):
            yield Problem(index, line, f"`{missing}` of {name} is missing", "add it")
        for extra in sorted(names - documented):
            yield Problem(index, line, f"`{extra}` is not on {name}", "remove it, or document it there")


def reference_has_the_public_names(tree: Tree) -> Iterator[Problem]:
    """The pages of docs/reference/ have each name of `densevit.__all__` once."""
    names = public_names(tree)
    documented: set[str] = set()
    for page in tree.files("docs/reference/*.md"):
        for number, line in tree.lines(page):
            match = re.fullmatch(r"::: densevit\.(\w+)", line)
            if match is None:
                continue
            if match[1] not in names:
                yield Problem(page, number, f"densevit.{match[1]} is no public name", "correct or remove it")
            if match[1] in documented:
                yield Problem(page, number, f"densevit.{match[1]} is in the reference twice", "remove it here")
            documented.add(match[1])
    for name in sorted(names.keys() - documented):
        yield Problem("docs/reference", 1, f"densevit.{name} is on no page", f"add `::: densevit.{name}` to one")


def reference_has_the_protocols(tree: Tree) -> Iterator[Problem]:
    """docs/reference/protocols.md has each protocol that a plugin may implement for a tool, `class Supports...`."""
    page, documented = "docs/reference/protocols.md", set()
    if tree.exists(page):
        documented = {line.removeprefix("::: ") for _, line in tree.lines(page) if line.startswith("::: ")}
    for file in tree.files("densevit/**/*.py", "plugins/**/*.py"):
        for node in tree.module(file).body:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Supports"):
                name = f"{file.removeprefix('plugins/').removesuffix('.py').replace('/', '.')}.{node.name}"
                if name not in documented:
                    yield Problem(file, node.lineno, f"{name} is not in {page}", f"add `::: {name}`")


def names_on_pages_are_public(tree: Tree) -> Iterator[Problem]:
    """`densevit.NAME` in prose and code is a public name, a module, or a group of entry points."""
    modules = {file.split("/")[1].partition(".")[0] for file in tree.files("densevit/*", "densevit/*/*.py")}
    known = {*public_names(tree), *modules, *tree.entry_points()}
    for page in tree.files("README.md", "docs/*.md", "docs/reference/*.md"):
        for number, line in tree.lines(page):
            for name in re.findall(r"\bdensevit\.([A-Za-z_]+)", line):
                if name not in known:
                    yield Problem(page, number, f"densevit.{name} is no public name or module", "correct it")


def index_has_the_plugins(tree: Tree) -> Iterator[Problem]:
    """docs/index.md names each backbone, neck, head and data set of setup.cfg, by itself or by its page."""
    text = tree.text("docs/index.md")
    for group in ("backbones", "necks", "heads", "datasets"):
        for name in tree.entry_points()[group]:
            if f"`{name}`" not in text and f"({name}.md)" not in text:
                yield Problem("docs/index.md", 1, f"{name!r} of {group} is missing", "add it to its row")


def papers_page_has_the_plugins(tree: Tree) -> Iterator[Problem]:
    """docs/papers.md names each plugin of densevit_papers, and files that exist."""
    page = "docs/papers.md"
    for group, plugins in tree.entry_points().items():
        for name, value in plugins.items():
            if group != "checkpoints" and value.startswith("densevit_papers.") and f"`{name}`" not in tree.text(page):
                yield Problem(page, 1, f"{name!r} of {group} is missing", "add a row")
    for number, line in tree.lines(page):
        for name in re.findall(r"`(\w+\.py)`", line):
            if not tree.exists(f"plugins/densevit_papers/{name}"):
                yield Problem(page, number, f"there is no file plugins/densevit_papers/{name}", "correct its name")


def weights_page_lists_the_layouts(tree: Tree) -> Iterator[Problem]:
    """The table of docs/weights.md has each checkpoint layout of setup.cfg with its variants, and no other name."""
    from densevit.errors import DensevitError
    from densevit.weights import layouts

    page, heading = "docs/weights.md", "What loads"
    expected: set[str] = set()
    for name in tree.entry_points()["checkpoints"]:
        try:
            layout = layouts.find(name)
        except DensevitError as error:
            line = tree.line_of("setup.cfg", rf"^    {re.escape(name)} =")
            yield Problem(
                "setup.cfg",
                line,
                f"{name} cannot be loaded: {str(error).partition('. ')[0]}",
                "run `pip install -e .` again",
            )
        else:
            expected |= {layout.name, *(variant.name for variant in layout.variants)}
    listed = [
        (row.line, name)
        for row in rows(tree.section(page, heading))
        if len(row.cells) > 2
        for name in re.findall("`([^`]+)`", row.cells[2])
    ]
    for name in sorted(expected - {name for _, name in listed}):
        yield Problem(page, tree.line_of(page, f"## {heading}"), f"the layout {name!r} has no row", "add it")
    for number, name in listed:
        if name not in expected:
            yield Problem(page, number, f"{name!r} is no layout", "correct the name")


def config_page_has_the_keys(tree: Tree) -> Iterator[Problem]:
    """docs/config.md names each key of the sections, and each key has a docstring."""
    page = "docs/config.md"
    files = tree.files("densevit/config/*.py")
    nodes = [(file, node) for file in files for node in tree.module(file).body]
    classes = {node.name: (file, node) for file, node in nodes if isinstance(node, ast.ClassDef)}
    for section in SECTIONS:
        if section not in classes:
            yield Problem("densevit/config", 1, f"there is no class {section}", f"correct SECTIONS in {__name__}")
            continue
        waiting = [section]
        while waiting:
            file, node = classes[waiting.pop()]
            waiting += [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
            for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
                if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                    continue
                key = statement.target.id
                if key.startswith("_") or "ClassVar" in ast.unparse(statement.annotation):
                    continue
                if f"`{key}`" not in tree.text(page):
                    yield Problem(page, 1, f"the key {key!r} of {section} is missing", "add it to its table")
                is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if not is_text:
                    found = f"{node.name}.{key} has no docstring"
                    yield Problem(file, statement.lineno, found, "describe it in the line below")


def foundation_table_has_the_backbones(tree: Tree) -> Iterator[Problem]:
    """docs/development/timm.md has the backbones of tools/foundation_table.py, and each works with each head."""
    page, tool = "docs/development/timm.md", "tools/foundation_table.py"
    constants = {
        node.targets[0].id: node.value
        for node in tree.module(tool).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    table = constants["FOUNDATION"]
    expected = [ast.literal_eval(key) for key in table.keys if key] if isinstance(table, ast.Dict) else []
    lines = list(tree.lines(page))
    begin, end = (tree.line_of(page, f"^<!-- {text}") for text in ("table: python", "end of the foundation"))
    found = rows(iter(lines[begin:end]))
    if [row.cells[0] for row in found] != expected:
        yield Problem(page, begin, f"the rows are not those of FOUNDATION in {tool}", f"run python {tool}")
    for row in found:
        exports = "no" if row.cells[0] == "Hiera of SAM 2" else "yes"
        if not {*row.cells[6:-1]} <= {"yes", "pyramid"} or row.cells[-1] != exports:
            yield Problem(page, row.line, f"{row.cells[0]} does not work with every head", f"run python {tool}")
