"""The passes of tools/conventions over a small project, of which a test changes one file."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tools.conventions.small_tree import FILES, Problems, ProblemsOf


@pytest.fixture
def conventions(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`conventions("pages")` is a module of tools/conventions."""
    monkeypatch.syspath_prepend(project)
    return lambda name: importlib.import_module(f"tools.conventions.{name}")


@pytest.fixture
def tree_of(conventions: Callable[[str], Any], tmp_path: Path) -> Callable[[Mapping[str, str]], Any]:
    """`tree_of({file: text})` is a tree of these files."""

    def tree_of(files: Mapping[str, str]) -> Any:
        for file, text in files.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        return conventions("tree").Tree(tmp_path)

    return tree_of


@pytest.fixture
def problems_of(conventions: Callable[[str], Any], tree_of: Callable[..., Any]) -> ProblemsOf:
    """`problems_of("pages.links_resolve")(file, part, text)` are the problems that a pass finds, as "file:line: found".

    In the file of the small project, `text` is in place of the first `part`, or of all if that is empty. None: the file
    is removed.
    """
    root = tree_of(FILES).root

    def problems_of(name: str) -> Problems:
        module, _, function = name.partition(".")
        check = getattr(conventions(module), function)

        def problems(file: str, part: str, text: str | None) -> list[str]:
            before = FILES.get(file)
            assert part in (before or ""), "the small project has another text"
            (root / file).unlink(missing_ok=True)
            if text is not None:
                (root / file).write_text((before or "").replace(part, text, 1) if part else text)
            found = [f"{problem.file}:{problem.line}: {problem.message}" for problem in check(tree_of({}))]
            (root / file).unlink(missing_ok=True)
            if before is not None:
                (root / file).write_text(before)
            return found

        return problems

    return problems_of
