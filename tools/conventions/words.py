"""Words and names that the project does not use."""

import ast
import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree

INSTEAD = {
    **dict.fromkeys(("picture", "pictures"), "image"),
    **dict.fromkeys(("mend", "mends", "mended", "mending"), "fix"),
    **dict.fromkeys(("learnt", "unlearnt"), "learned"),
    **dict.fromkeys(("spoilt",), "noised or damaged"),
    **dict.fromkeys(("stands twice", "stand twice"), "occurs twice"),
    **dict.fromkeys(("doubled id", "doubled ids"), "duplicate id"),
    **dict.fromkeys(("is told", "are told"), "is reported"),
    **dict.fromkeys(("asked for",), "requested"),
    **dict.fromkeys(("anew",), "again"),
    **dict.fromkeys(("unrecorded",), "unsaved"),
    **dict.fromkeys(("usage option", "usage options"), "runtime option"),
    **dict.fromkeys(("file an image", "json an image", "line an object"), "one ... per ..."),
}
WORD = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)
UTILITIES = ("utils", "util", "misc", "common", "helpers")
UNCLEAR = (
    *("quiet", "views", "strips", "likeliest", "kept", "whole", "unused", "averaging", "arrival", "initial", "fitting"),
    *("inert", "writing", "reading", "draws", "pictures", "pipeline", "processes", "patterns", "assignment"),
)
MODULES = {
    **dict.fromkeys(UTILITIES, "put its functions where they are used"),
    **dict.fromkeys(UNCLEAR, "name it by the noun that one would search for"),
}
NAMES = (
    *("found", "one", "own", "known", "mine", "whole", "fresh", "unrecorded", "usage_options", "spoilt", "located"),
    *("confer", "attend", "think", "pick", "prepared", "picture", "pictures"),
)
FOLDERS = ("densevit", "plugins", "configs", "docs", "tools", "examples", "tests")
SUFFIXES = ("py", "md", "yaml", "html")
EXCEPT = ("tools/conventions/words.py", "tests/tools/conventions/test_passes.py")  # which name the words


def files(tree: Tree) -> list[str]:
    patterns = [f"{folder}/**/*.{suffix}" for folder in FOLDERS for suffix in SUFFIXES]
    return [file for file in tree.files("*.md", *patterns) if file not in EXCEPT]


def words_are_the_standard_ones(tree: Tree) -> Iterator[Problem]:
    """In docstrings, comments, messages, pages and configs."""
    for file in files(tree):
        for number, line in tree.lines(file):
            for match in WORD.finditer(line):
                yield Problem(file, number, f"the word '{match[0]}'", f"write {INSTEAD[match[0].lower()]}")


def public_names_say_what_they_are(tree: Tree) -> Iterator[Problem]:
    """Names of classes, functions, parameters and fields."""
    for file in tree.files("densevit/**/*.py", "plugins/**/*.py", "tools/**/*.py", "examples/**/*.py"):
        for name, line in public_names(tree.module(file).body):
            if name.lower() in NAMES:
                yield Problem(file, line, f"the name {name}", "name what it is: boxes, row, head_options")


def public_names(body: list[ast.stmt]) -> Iterator[tuple[str, int]]:
    """The names that statements of a module or class define, without those that begin with `_`, with their lines."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from public_names(node.body)
            elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
                arguments = node.args
                for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                    yield argument.arg, argument.lineno
            yield node.name, node.lineno
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, node.lineno) for target in targets if isinstance(target, ast.Name))


def modules_are_named_by_their_subject(tree: Tree) -> Iterator[Problem]:
    for file in tree.files(*(f"{folder}/**/*.py" for folder in FOLDERS)):
        module = file.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
        if module in MODULES:
            yield Problem(file, 1, f"a module called {module}", MODULES[module])
