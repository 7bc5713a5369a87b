"""Words and names that the project does not use."""

import ast
import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree, line_at

WORDS = {
    "pictures?": "image",
    "mend(?:s|ed|ing)?": "fix",
    "(?:un)?learnt": "learned",
    "spoilt": "noised or damaged",
    "stands? twice": "occurs twice",
    "doubled ids?": "duplicate id",
    "(?:is|are) told": "is reported",
    "asked for": "requested",
    "anew": "again",
    "unrecorded": "unsaved",
    "usage options?": "runtime option",
    "(?:file|json) an image|line an object": "one ... per ...",
}
WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
FRAGMENT = r"(?:of|for|in|on|at|by|to|from|with|without|before|after|below|per|as|see|theirs)\b"
# A docstring's first sentence, and a note of a parameter, "top: the most objects in an image", not "top: of an image".
REFERENCE = re.compile(rf'"""(?:See|As|Of|By) .*|(?:^ *|[.;] )(?:\w+, )*[a-z]\w*: {FRAGMENT}.*', re.MULTILINE)
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
CODE = ("densevit/**/*.py", "plugins/**/*.py", "tools/**/*.py", "examples/**/*.py")
EXCEPT = ("tools/conventions/words.py", "tests/tools/test_conventions.py")  # which name the words


def words_are_the_standard_ones(tree: Tree) -> Iterator[Problem]:
    """In docstrings, comments, messages, pages and configs."""
    patterns = [f"{folder}/**/*.{suffix}" for folder in FOLDERS for suffix in ("py", "md", "yaml", "html")]
    for file in tree.files("*.md", *patterns):
        for match in WORD.finditer(tree.text(file)) if file not in EXCEPT else ():
            word = next(word for pattern, word in WORDS.items() if re.fullmatch(pattern, match[0], re.IGNORECASE))
            yield Problem(file, line_at(match), f"the word '{match[0]}'", f"write {word}")


def docstrings_say_what_a_thing_is(tree: Tree) -> Iterator[Problem]:
    for file in tree.files(*CODE):
        for match in REFERENCE.finditer(tree.text(file)) if file not in EXCEPT else ():
            yield Problem(file, line_at(match), f"the docstring has '{match[0].strip()}'", "say what the thing is")


def public_names_say_what_they_are(tree: Tree) -> Iterator[Problem]:
    """Names of classes, functions, parameters and fields."""
    for file in tree.files(*CODE):
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
