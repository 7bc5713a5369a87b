"""Pages: their length, wrapped lines, links, images, and the languages of code blocks."""

import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator

from tools.conventions.tree import Problem, Tree

TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
WIDTH = 120
MAX_LINES = 250  # of a page
MAX_WORDS = 120  # of a paragraph, list item or table cell
MAX_WORDS_OF = {"README.md": 800, "docs/(?!development/)": 45_000, "docs/": 65_000}  # by how paths begin; with code
MAX_BYTES = 400_000  # of an image
LINK = re.compile(r"\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".svg", ".webp")
RUN = ("python", "bash", "yaml", "ini")  # tests/docs/test_code_blocks.py runs blocks of these languages
SPELLED = {"py": "python", "sh": "bash", "shell": "bash", "yml": "yaml", "txt": "text"}


def pages(tree: Tree) -> list[str]:
    return tree.files(*TOP, "docs/**/*.md", "examples/**/*.md")


def lines_are_wrapped(tree: Tree) -> Iterator[Problem]:
    """At 120 characters, except tables, images, comments, code and a word that is longer."""
    for page in pages(tree):
        for number, line in tree.prose(page):
            is_text = line[:4].strip() and not line.lstrip().startswith(("|", "![", "<!--"))
            if is_text and len(line) > WIDTH and " " in line[:WIDTH].strip():
                yield Problem(page, number, f"the line has {len(line)} characters", f"wrap it at {WIDTH}")


def pages_are_short(tree: Tree) -> Iterator[Problem]:
    """At most 250 lines a page and 120 words a paragraph, list item or cell, and few words in all."""
    words = dict.fromkeys(MAX_WORDS_OF, 0)
    for page in tree.files("README.md", "docs/**/*.md"):
        text = IMAGE.sub("", tree.text(page))
        for part in words:
            words[part] += len(text.split()) if re.match(part, page) else 0
        if (lines := text.count("\n")) > MAX_LINES:
            yield Problem(page, 1, f"the page has {lines} lines", f"at most {MAX_LINES}: shorten it or split it")
        for number, passage in passages(tree.prose(page)):
            if (count := len(passage.split())) > MAX_WORDS:
                yield Problem(page, number, f"a passage of {count} words", f"at most {MAX_WORDS}: divide it")
    for part, count in words.items():
        if count > MAX_WORDS_OF[part]:
            fix = f"at most {MAX_WORDS_OF[part]:,}: shorten pages"
            yield Problem("docs", 1, f"{part} has {count:,} words", fix)


def passages(prose: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """The paragraphs, list items and table cells of a page, with the number of their first line."""
    start, lines, last = 0, list[str](), 0
    for number, line in [*prose, (0, "")]:
        is_row = line.startswith("|")
        if lines and (is_row or not line.strip() or number != last + 1 or re.match(r"\s*([-*]|\d+\.) |#", line)):
            yield start, " ".join(lines)
            lines = []
        if is_row:
            yield from ((number, cell) for cell in line.split("|"))
        elif line.strip():
            start = number if not lines else start
            lines.append(line)
        last = number


def links_resolve(tree: Tree) -> Iterator[Problem]:
    """Relative links lead to files of the tree, and anchors to their headings. Links of the built site are a test."""
    for page in pages(tree):
        lines = [(number, re.sub(r"`[^`]*`", "", line)) for number, line in tree.prose(page)]  # without inline code
        links = [(number, link) for number, line in lines for link in LINK.findall(line)]
        if page in TOP and page != "CHANGELOG.md" and not links:
            yield Problem(page, 1, "the page has no links", "link the pages of docs/")
        for number, link in links:
            file, _, anchor = link.partition("#")
            if re.match(r"https?:|mailto:", link):
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), file)) if file else page
            is_folder = (tree.root / target / "index.md").is_file() and page not in TOP
            if not tree.exists(target) and not is_folder:
                yield Problem(page, number, f"the link {link} leads to no file", "correct the path")
            elif anchor and anchor not in anchors(tree, target, in_site=page not in TOP):
                yield Problem(page, number, f"{target} has no heading #{anchor}", "correct the anchor")


def anchors(tree: Tree, file: str, in_site: bool) -> set[str]:
    """The anchors of a page's headings: as the site makes them, or as GitHub."""
    if file.endswith(".ipynb"):
        cells = json.loads(tree.text(file))["cells"]
        lines = [line.rstrip("\n") for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"]]
    elif file.endswith(".md"):
        lines = [line for _, line in tree.prose(file)]
    else:
        return set()
    headings = [match[1] for line in lines if (match := re.match(r"#+ (.+)$", line))]
    names = {name for line in lines for name in re.findall(r"^::: (densevit\.\w+)$|<a id=\"([\w-]+)\"", line)}
    return {slug(heading, in_site) for heading in headings} | {part for name in names for part in name if part}


def slug(heading: str, in_site: bool) -> str:
    if not in_site:
        return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # the text of a link
    heading = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def images_are_small(tree: Tree) -> Iterator[Problem]:
    """Images of pages exist, and those of docs/ are below 400 kB."""
    for page in tree.files("docs/**/*.md"):
        for number, line in tree.lines(page):
            for image in IMAGE.findall(line):
                if not tree.exists(posixpath.normpath(posixpath.join(posixpath.dirname(page), image))):
                    yield Problem(page, number, f"there is no image {image}", "correct the path")
    images = [file for file in tree.files("docs/**/*") if file.endswith(IMAGES)]
    if not images:
        yield Problem("docs", 1, "there are no images", f"correct IMAGES in {__name__}")
    for image in images:
        if tree.size(image) >= MAX_BYTES:
            yield Problem(image, 1, f"the image has {tree.size(image):,} bytes", f"keep it below {MAX_BYTES:,}")


def code_blocks_have_a_language(tree: Tree) -> Iterator[Problem]:
    """A language behind each fence, spelled in one way."""
    for page in pages(tree):
        for block in tree.blocks(page):
            if block.end is None:
                yield Problem(page, block.line, "the block is not closed", "add the closing fence")
            if not block.language:
                yield Problem(page, block.line, "the block has no language", "write it behind the fence: bash, text")
            if block.language in SPELLED:
                yield Problem(page, block.line, f"the language is {block.language}", f"write {SPELLED[block.language]}")


def commands_are_in_blocks_that_run(tree: Tree) -> Iterator[Problem]:
    """A block of text or of another language does not hide a command."""
    for page in tree.pages():
        for block in tree.blocks(page):
            first = (block.text.split() or [""])[0]
            is_synopsis = bool(set("[|") & set(block.text))
            is_command = first in ("pip", "python", "torchrun", "pytest") or (first == "densevit" and not is_synopsis)
            if is_command and block.language not in RUN:
                yield Problem(page, block.line, f"a command in a block of {block.language}", "make it a block of bash")
