"""Words and names of files that the project does not use."""

import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree

INSTEAD = {
    **dict.fromkeys(("picture", "pictures"), "image"),
    **dict.fromkeys(("mend", "mends", "mended", "mending"), "fix"),
    **dict.fromkeys(("learnt", "unlearnt"), "learned"),
    **dict.fromkeys(("spoilt",), "noised or damaged"),
    **dict.fromkeys(("stands twice", "stand twice"), "occurs twice"),
    **dict.fromkeys(("is told", "are told"), "is reported"),
}
WORD = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)
NAMES = {"utils", "util", "misc", "common", "helpers"}
FOLDERS = ("densevit", "plugins", "configs", "docs", "tools", "examples", "tests")
SUFFIXES = ("py", "md", "yaml", "html")
EXCEPT = ("tools/conventions/words.py", "tests/tools/conventions/test_words.py")  # which name the words


def files(tree: Tree) -> list[str]:
    patterns = [f"{folder}/**/*.{suffix}" for folder in FOLDERS for suffix in SUFFIXES]
    return [file for file in tree.files("*.md", *patterns) if file not in EXCEPT]


def words_are_the_standard_ones(tree: Tree) -> Iterator[Problem]:
    """In docstrings, comments, messages, pages and configs."""
    for file in files(tree):
        for number, line in tree.lines(file):
            for match in WORD.finditer(line):
                yield Problem(file, number, f"the word '{match[0]}'", f"write {INSTEAD[match[0].lower()]}")


def modules_are_named_by_their_subject(tree: Tree) -> Iterator[Problem]:
    for file in tree.files(*(f"{folder}/**/*.py" for folder in FOLDERS)):
        module = file.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
        if module in NAMES:
            yield Problem(file, 1, f"a module called {module}", "put its functions where they are used")
