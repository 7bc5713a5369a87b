"""Docstrings that exist and say what a thing is, and headings with something below."""

import ast
import itertools
import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree

STUB = "densevit/__init__.pyi"
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
FILES = ("densevit/**/*.py", "plugins/**/*.py", "tools/**/*.py", "examples/**/*.py")
FRAGMENT = r"(?:of|for|in|on|at|by|to|from|with|without|before|after|below|per|as|see|theirs)\b"
NOTE = re.compile(rf"(?:^\s*|[.;] +)((?:\w+, )*[a-z]\w*):\s+({FRAGMENT}[^.\n]*)", re.MULTILINE)
REFERENCE = re.compile(r"\s*(?:See|As|Of|By) [^\n]*")
HEADING = re.compile(r" *# -{2,} ")
PAGE_HEADING = re.compile(r"#+(?= )")


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
    for file in tree.files(*FILES):
        if tree.text(file).strip() and ast.get_docstring(tree.module(file)) is None:
            yield Problem(file, 1, "the module has no docstring", "say what it is for")


def notes_say_what_a_thing_is(tree: Tree) -> Iterator[Problem]:
    """A note of a parameter or field begins with a noun, "the classes of each head by name", not with "by head"."""
    for file, line, docstring in docstrings(tree):
        for match in NOTE.finditer(docstring):
            note = f"'{match[1]}: {match[2]}'"
            yield Problem(file, line + docstring.count("\n", 0, match.start(1)), f"the note {note}", "say what it is")


def docstrings_are_no_references(tree: Tree) -> Iterator[Problem]:
    """A docstring does not begin with "See ...", "As ..." or "Of ...": its first sentence says what the thing is."""
    for file, line, docstring in docstrings(tree):
        if match := REFERENCE.match(docstring):
            yield Problem(file, line, f"the docstring begins '{match[0].strip()}'", "say what it is")


def headings_have_contents(tree: Tree) -> Iterator[Problem]:
    """In comments, as `# ---- geometry ----`, in docstrings, as "Example:", and on pages."""
    fix = "write what belongs there, or remove it"
    for file in tree.files(*FILES, "tests/**/*.py"):
        lines = [(number, line) for number, line in tree.lines(file) if line.strip()]
        for (number, line), (_, following) in itertools.pairwise([*lines, (0, "")]):
            is_empty = not following or HEADING.match(following) or not following.startswith(line[: line.find("#")])
            if HEADING.match(line) and is_empty:
                yield Problem(file, number, f"nothing below '{line.strip()}'", fix)
    for file, first, docstring in docstrings(tree):
        if docstring.rstrip().endswith(":"):
            end = first + docstring.rstrip().count("\n")
            last = docstring.rstrip().rpartition("\n")[2].strip()
            yield Problem(file, end, f"nothing below '{last}'", fix)
    for page in tree.pages():
        prose = dict(tree.prose(page))
        lines = [(number, line) for number, line in tree.lines(page) if line.strip()]
        levels = [len(match[0]) if (match := PAGE_HEADING.match(prose.get(number, ""))) else 0 for number, _ in lines]
        for (number, line), (level, below) in zip(lines, itertools.pairwise([*levels, 1]), strict=True):
            if 0 < below <= level:
                yield Problem(page, number, f"nothing below '{line}'", fix)


def docstrings(tree: Tree) -> Iterator[tuple[str, int, str]]:
    """The file, the first line and the text of each docstring, those of fields too."""
    for file in tree.files(*FILES):
        for node in ast.walk(tree.module(file)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield file, node.lineno, node.value.value


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
