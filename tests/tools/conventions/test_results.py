"""Figures of docs/results.json on pages and in configs."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.tools.conventions.small_tree import FILES, RESULTS, ProblemsOf

PAGE = "docs/results.md"
JSON = "docs/results.json"
CONFIG = "configs/fcn.yaml"
FIGURES = f"the figures are not those of {JSON}: "

Write = Callable[..., dict[str, str]]


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
    assert problems(PAGE, "AP of fcn ", "PQ of fcn ") == [f"{PAGE}:3: {JSON} has no 'PQ' of 'fcn'"]
    assert problems(PAGE, "results: detection", "results: depth") == [
        f"{PAGE}:5: {JSON} has no group and no entry 'depth'"
    ]
    assert problems(PAGE, "config, AP, time", "config, AP, price") == [f"{PAGE}:5: no entry of detection has 'price'"]
    added = json.dumps(RESULTS).replace('"recipe": "fcn"', '"recipe": "fcm", "headers": []')
    assert f"{JSON}:1: there is no recipe fcm" in problems(JSON, "", added)


@pytest.fixture
def write(conventions: Callable[[str], Any], tree_of: Callable[..., Any]) -> Write:
    """`write(trainings={}, files={})` changes the small project, writes its figures and returns the changed files."""

    def write(trainings: dict[str, Any], files: dict[str, str]) -> dict[str, str]:
        results: dict[str, dict[str, Any]] = copy.deepcopy(RESULTS)
        results["trainings"] |= trainings
        tree = tree_of({**FILES, **files, JSON: json.dumps(results)})
        changed = conventions("results").write(tree)
        assert conventions("results").write(tree_of({})) == [], "the second time changes nothing"
        return {file: (tree.root / file).read_text() for file in changed}

    return write


def test_writing_corrects_the_figures_and_nothing_else(write: Write) -> None:
    wrong = {
        PAGE: FILES[PAGE].replace("0.512", "0.6").replace("7.0 min", "9.0 min"),
        CONFIG: "# FCN.\n# Measured:\n# Train it.\nseed: 0\n",
    }
    assert write({}, wrong) == {PAGE: FILES[PAGE], CONFIG: FILES[CONFIG]}
    assert write({}, {}) == {}


def test_a_start_is_compared_with_its_twin_from_random_weights(write: Write) -> None:
    start = {"group": "starts", "data": "scenes", "seeds": [0], "images": 400, "passes": 10, "label": "on scenes"}
    twin = {**start, "recipe": "start/fcn", "label": "from random weights", "scores": {"depth/AbsRel": [0.1]}}
    starts = {
        "start/fcn": {**start, "scores": {"depth/AbsRel": [0.2]}, "twin": "start/fcn, random weights"},
        "start/fcn, random weights": twin,
    }
    table = "<!-- results: starts; config, score, from random weights, images seen -->\n"
    files = {
        "configs/start/fcn.yaml": "# densevit train start/fcn data=folder\n# Measured:\ntrainer: {max_epochs: 50}\n",
        "docs/a.md": f"{table}<!-- end of results -->\n",
    }
    found = write(starts, files)
    assert found["docs/a.md"].splitlines()[4] == (
        "| `start/fcn` | AbsRel 0.200 | AbsRel 0.100: not worse | 400, 10 of the recipe's 50 passes |"
    )
    assert "not better than" in found["configs/start/fcn.yaml"]
    starts["start/fcn"]["scores"] = {"depth/AbsRel": [0.05]}
    found = write(starts, files)
    assert "| AbsRel 0.100 |" in found["docs/a.md"]
    assert "not better" not in found["configs/start/fcn.yaml"]
