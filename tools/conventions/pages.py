"""Pages are short, and commands are in blocks that the tests run."""

import re
from collections.abc import Iterator

from tools.conventions.tree import Problem, Tree, line_at

MAX_LINES = 250  # of a page
MAX_WORDS = 120  # of a paragraph, list item or table cell
MAX_PAGES = 49  # of docs/ itself: its folders have the reference, notebooks and pages for developers
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^ *(`{3,})(\w*)[^\n]*\n(.*?)^ *\1$", re.MULTILINE | re.DOTALL)
PASSAGE = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )|\|")  # what is between two passages
RUN = ("python", "bash", "yaml", "ini")  # tests/docs/test_code_blocks.py runs blocks of these languages


def pages_are_short(tree: Tree) -> Iterator[Problem]:
    """At most 250 lines a page and 120 words a paragraph, list item or cell, and few pages."""
    pages = [page for page in tree.pages() if re.fullmatch(r"docs/[^/]+", page)]
    if len(pages) > MAX_PAGES:
        yield Problem("docs", 1, f"docs/ has {len(pages)} pages", f"at most {MAX_PAGES}: merge pages")
    for page in tree.pages():
        text = IMAGE.sub("", tree.text(page))
        if (lines := text.count("\n")) > MAX_LINES:
            yield Problem(page, 1, f"the page has {lines} lines", f"at most {MAX_LINES}: shorten it or split it")
        for passage in PASSAGE.split(BLOCK.sub("", text)):
            if (count := len(passage.split())) > MAX_WORDS:
                line = tree.line_of(page, passage.strip().partition("\n")[0])
                yield Problem(page, line, f"a passage of {count} words", f"at most {MAX_WORDS}: divide it")


def commands_are_in_blocks_that_run(tree: Tree) -> Iterator[Problem]:
    """A block of text or of another language does not hide a command."""
    for page in tree.pages():
        for block in BLOCK.finditer(tree.text(page)):
            first = (block[3].split() or [""])[0]
            is_synopsis = bool(set("[|") & set(block[3]))
            is_command = first in ("pip", "python", "torchrun", "pytest") or (first == "densevit" and not is_synopsis)
            if is_command and block[2] not in RUN:
                yield Problem(page, line_at(block), f"a command in a block of {block[2]}", "make it a block of bash")
