"""Figures of docs/results.json on pages and in configs."""

from collections.abc import Callable
from typing import Any

from tests.tools.conventions.small_tree import FILES, ProblemsOf

PAGE = "docs/results.md"
JSON = "docs/results.json"
CONFIG = "configs/fcn.yaml"
FIGURES = f"the figures are not those of {JSON}: "


def test_figures_are_those_of_results_json(problems_of: ProblemsOf) -> None:
    problems = problems_of("results.figures_are_those_of_results_json")
    assert problems(PAGE, "AP 0.512", "AP 0.513") == [f"{PAGE}:3: {FIGURES}AP 0.512<!-- AP of fcn -->"]
    assert problems(PAGE, "| 7.0 min", "| 8.0 min") == [f"{PAGE}:9: {FIGURES}| `fcn` | 0.512 | 7.0 min |"]
    assert problems(CONFIG, "0.010", "0.011") == [f"{CONFIG}:3: {FIGURES}#  0.010 (seeds 0, 1, 2)."]
    assert problems(JSON, '"images_per_second": {"core": 8}', '"images_per_second": {"core": 16}') == [
        f"configs/start/fcn.yaml:2: {FIGURES}# Measured: 20 steps: 40 images, 0.0 min on a core (AVX2, 16 images/s)."
    ]
    assert problems(CONFIG, "# Measured: ", "# ") == [f"{CONFIG}:1: the first lines have no `# Measured:`"]
    assert problems(PAGE, "AP of fcn ", "AP of fcm ") == [f"{PAGE}:3: {JSON} has no entry 'fcm'"]
    assert problems(PAGE, "results: detection", "results: depth") == [
        f"{PAGE}:5: {JSON} has no group and no entry 'depth'"
    ]


def test_writing_corrects_the_figures_and_nothing_else(
    conventions: Callable[[str], Any], tree_of: Callable[..., Any]
) -> None:
    write = conventions("results").write
    wrong = {
        PAGE: FILES[PAGE].replace("0.512", "0.6").replace("7.0 min", "9.0 min"),
        CONFIG: "# FCN.\n# Measured:\n# Train it.\nseed: 0\n",
    }
    tree = tree_of({**FILES, **wrong})
    assert set(write(tree)) == {PAGE, CONFIG}
    assert all((tree.root / file).read_text() == FILES[file] for file in (PAGE, CONFIG))
    assert write(tree_of({})) == [], "the second time changes nothing"
