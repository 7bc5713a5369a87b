"""tools/benchmarks/convergence.py: its tables and plot from given results, its contestants, and what it trains."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from densevit.interfaces import Class

CLASSES = [Class(str(i), i, (0, 0, 0)) for i in range(8)]
LABELS = {"a": "Reference", "b": "Challenger"}
RATES = {"a": 60.0, "b": 30.0}


@pytest.fixture
def tool(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "tools" / "benchmarks"))
    return __import__("convergence")


@pytest.fixture
def peer(tool: ModuleType) -> ModuleType:
    return __import__("convergence_peer")


def run(name: str, seed: int, minutes: float, *ap: float) -> dict[str, object]:
    """A run of equal intervals, with AP50 twice the AP."""
    images = [minutes * 60 * RATES[name] * i / len(ap) for i in range(1, len(ap) + 1)]
    return {
        "contestant": name,
        "seed": seed,
        "minutes": minutes,
        "points": [[n, value, 2 * value] for n, value in zip(images, ap, strict=True)],
    }


def results() -> dict[str, object]:
    """The reference has 0.2 at 10 minutes; the challenger's mean is 0, 0.1, 0.3 and 0.4 at 2.5, 5, 7.5 and 10."""
    runs = [run("a", 0, 10, 0.1, 0.15), run("a", 1, 10, 0.1, 0.25), run("b", 0, 5, 0.1, 0.25)]
    runs += [run("b", 1, 10, 0.0, 0.2, 0.4, 0.5), run("b", 0, 10, 0.0, 0.0, 0.2, 0.3)]
    return {"rates": RATES, "images_per_second": RATES, "runs": runs}


def test_tables_have_means_seeds_and_the_time_to_reach_the_yardstick(tool: ModuleType) -> None:
    assert tool.tables(results(), LABELS, "a", "b").splitlines() == [
        "|  | images/s | AP, 5 min | AP, 10 min | AP50, 5 min | AP50, 10 min |",
        "| --- | --- | --- | --- | --- | --- |",
        "| Reference | 60.0 |  | 0.200 (0.150, 0.250) |  | 0.400 (0.300, 0.500) |",
        "| Challenger | 30.0 | 0.250 (0.250) | 0.400 (0.300, 0.500) | 0.500 (0.500) | 0.800 (0.600, 1.000) |",
        "",
        "AP 0.200, that of Reference after 10 min, is reached after 6.2 min of the 10 by Challenger (mean curve), and "
        "by its runs annealed at 5 min.",
        "",
        "| AP after minutes | 2.5 | 5 | 7.5 | 10 |",
        "| --- | --- | --- | --- | --- |",
        "| Reference |  | 0.100 |  | 0.200 |",
        "| Challenger | 0.000 | 0.100 | 0.300 | 0.400 |",
    ]  # 0.2 lies midway between 5 and 7.5 minutes


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
