"""Tables of measured speed name the code that they measured, and are measured again when it has changed.

Before each table of a page of SPEED_PAGES stands

    <!-- measured: COMMAND; COMMIT; KIND OF CPU; code DIGEST of FILES -->

FILES are glob patterns, separated by spaces. DIGEST is of their lines, without docstrings and lines of comments.
"""

import ast
import hashlib
import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree, line_at

SPEED_PAGES = {"docs/development/speed.md": "# ", "docs/comparison.md": "## Speed"}  # from which heading on
TABLE = re.compile(r"(<!-- measured: [^>]+-->)?\n+\|.*\n\|---")
MEASURED = re.compile(
    r"<!-- measured: (?P<command>.+); [0-9a-f]{8}; .+; code (?P<digest>[0-9a-f]{8}) of (?P<files>.+) -->"
)


def code_lines(tree: Tree, file: str) -> list[str]:
    """The lines of a Python file that are neither empty nor part of comments and docstrings, without indentation."""
    lines = tree.text(file).splitlines()
    for node in ast.walk(tree.module(file)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            docstring = node.body[0]
            first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
            lines[first:last] = [""] * (last - first)
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def digest(tree: Tree, files: str) -> str:
    """Eight hexadecimal digits of the code of files; LookupError names a pattern without files."""
    code = []
    for pattern in files.split():
        matches = tree.files(pattern)
        if not matches:
            raise LookupError(f"no file matches {pattern}")
        code += [line for file in matches for line in code_lines(tree, file)]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:8]


def speeds_are_of_the_current_code(tree: Tree) -> Iterator[Problem]:
    for page, heading in SPEED_PAGES.items():
        text = tree.text(page)
        for match in TABLE.finditer(text, text.index(heading)):
            line, measured = line_at(match), MEASURED.fullmatch(" ".join((match[1] or "").split()))
            if measured is None:
                fix = "write the line that tools/conventions/speeds.py describes"
                yield Problem(page, line, "no line before the table says what was measured", fix)
                continue
            try:
                current = digest(tree, measured["files"])
            except LookupError as error:
                yield Problem(page, line, str(error.args[0]), "correct the line before the table")
                continue
            if current != measured["digest"]:
                message = f"the code of this table has changed since it was measured, its digest is {current}"
                yield Problem(page, line, message, f"run {measured['command']}, write its figures, commit and digest")
