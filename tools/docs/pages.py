"""MkDocs hook: the pages of the site that are not Markdown files of docs/.

CHANGELOG.md and CONTRIBUTING.md, a page for each program and package of examples/, and the notebooks of
docs/tutorials/. Links to these files are links to their pages. In the nav, `examples/` and `tutorials/` stand for all
pages of that folder.
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

import notebooks
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")  # to a file, with or without an anchor


def sources() -> dict[str, Path]:
    """The files that become pages, by the page's path in the site; a script of a cluster is only copied."""
    pages = {f"{name.lower()}.md": ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING")}
    examples = ROOT / "examples"
    if (examples / "README.md").is_file():
        pages["examples/index.md"] = examples / "README.md"
    pages |= {f"examples/{file.stem}.md": file for file in sorted(examples.glob("*.py"))}
    pages |= {f"examples/{file.name}": file for file in sorted(examples.glob("*.sbatch"))}
    pages |= {f"examples/plugins/{file.parent.name}.md": file for file in sorted(examples.glob("plugins/*/README.md"))}
    return pages | {f"tutorials/{file.stem}.md": file for file in sorted((ROOT / "docs/tutorials").glob("*.ipynb"))}


def tutorials() -> list[str]:
    """The pages of docs/tutorials, index.md first, then in the order of its links."""
    folder = ROOT / "docs/tutorials"
    index = folder / "index.md"
    text = index.read_text(encoding="utf-8") if index.is_file() else ""
    files = [file for file in [*folder.glob("*.md"), *folder.glob("*.ipynb")] if file != index]
    files.sort(key=lambda file: (text.find(file.name) % (len(text) + 1), file.name))  # without a link: the last
    return [f"tutorials/{file.stem}.md" for file in [*([index] if text else []), *files]]


def on_config(config: Any) -> Any:
    """Replaces `examples/` and `tutorials/` in the nav by the pages of the folder."""
    examples = [page for page in sources() if re.fullmatch(r"examples/.+\.md", page)]
    folders = {"examples/": examples, "tutorials/": tutorials()}

    def expanded(entries: list[Any]) -> list[Any]:
        nav: list[Any] = []
        for entry in entries:
            title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
            value = expanded(value) if isinstance(value, list) else folders.get(value, value)
            if value:  # docs/tutorials may be absent
                nav.append(value if title is None else {title: value})
        return nav

    config.nav = expanded(config.nav)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages, and the images of notebooks. Notebooks themselves stay, for download."""
    for page, source in sources().items():
        images: dict[str, bytes] = {}
        if source.suffix == ".ipynb":
            text, images = notebooks.convert(source)
            text += f'\n<a href="{source.name}" download>Download this notebook</a>\n'
        elif source.suffix == ".py":
            text = example(source)
        else:
            text = source.read_text(encoding="utf-8")
            if page.startswith("examples/plugins/"):
                text += package_files(source.parent)
        files.append(File.generated(config, page, content=text))
        for name, content in images.items():
            files.append(File.generated(config, posixpath.join(posixpath.dirname(page), name), content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links to files of the repository by links to their pages, if they have one."""
    pages = sources()
    page_of = {file.relative_to(ROOT).as_posix(): uri for uri, file in pages.items()}
    source = (
        pages[page.file.src_uri].relative_to(ROOT) if page.file.src_uri in pages else Path("docs", page.file.src_uri)
    )
    folder, here = source.parent.as_posix(), posixpath.dirname(page.file.src_uri)

    def relinked(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        uri = page_of.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        return link[0] if uri is None else f"]({posixpath.relpath(uri, here or '.')}{link[2] or ''})"

    return LINK.sub(relinked, markdown)


def example(file: Path) -> str:
    """The page of an example: its docstring, in which paragraphs of commands become code blocks, and its code."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", ast.get_docstring(tree) or ""):
        lines = [line.strip() for line in paragraph.splitlines()]
        commands = all(re.match("(cd|curl|densevit|python) ", line) for line in lines)
        paragraphs.append(notebooks.fenced("\n".join(lines), "bash") if commands else " ".join(lines))
    code = "".join(source.splitlines(keepends=True)[tree.body[0].end_lineno or 0 :]).strip("\n")
    title = f"# {file.stem.replace('_', ' ').capitalize()}"
    file_name = f"The file `examples/{file.name}`:"
    return "\n\n".join(["---\nhide: [toc]\n---", title, *paragraphs, file_name, notebooks.fenced(code, "python"), ""])


def package_files(folder: Path) -> str:
    """The files of an example package, each under its path in the package."""
    files = [folder / "setup.cfg", *sorted(folder.glob("*.py")), *sorted(folder.glob("*/*.py"))]
    text = ""
    for file in files:
        language = "python" if file.suffix == ".py" else "ini"
        code = notebooks.fenced(file.read_text(encoding="utf-8"), language)
        text += f"\n## `{file.relative_to(folder).as_posix()}`\n\n{code}\n"
    return text
