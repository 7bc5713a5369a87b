"""tools/benchmarks/convergence.py: the page has its tables and plot."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tool(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "tools" / "benchmarks"))
    return __import__("convergence")


def test_the_page_has_the_tables_and_the_plot_of_the_results(tool: ModuleType, project: Path, tmp_path: Path) -> None:
    found = json.loads((project / "docs" / "convergence.json").read_text())
    page = (project / "docs" / "benchmarks.md").read_text()
    assert " ".join(tool.report(found, tmp_path).split()) in " ".join(page.split())  # the page wraps its lines
    drawn, shown = ((folder / "convergence.svg").read_text() for folder in (tmp_path, project / "docs"))
    for part in (r">([^<]+)</text>", r"stroke: (#\w+); stroke-width: 2.5"):  # matplotlib's versions differ in digits
        assert re.findall(part, drawn) == re.findall(part, shown) != []


def test_the_page_has_the_table_of_options(tool: ModuleType, project: Path) -> None:
    options = __import__("detection_options")
    found = json.loads((project / "docs" / "detection_options.json").read_text())
    page = (project / "docs" / "benchmarks.md").read_text()
    assert options.table(found) in page
    rows = [(name, options.key(name, option)) for name, base in options.BASES.items() for option in base.options]
    assert {run["contestant"] for run in found["runs"]} == {name for row in rows for name in row}
