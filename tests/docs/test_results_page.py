"""Figures of pages: docs/results.json has the costs of the models of recipes on scenes, and their budgets; other scores
are those of the pages of experiments."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import pytest

from densevit import config
from densevit.data.data_builder import build_data
from densevit_workbench.model_cost import model_cost
from tests.built_models import build_model
from tools.conventions.results import EXPERIMENTS, TABLE, TYPED
from tools.conventions.tree import Tree

ROOT = Path(__file__).resolve().parents[2]
TRAININGS = json.loads((ROOT / "docs" / "results.json").read_text())["trainings"]
SHIPPED = {
    name: entry
    for name, entry in TRAININGS.items()
    if entry["data"] in ("scenes", "scenes, test") and "recipe" not in entry
}


@pytest.mark.integration
@pytest.mark.parametrize("name", SHIPPED)
def test_cost_and_budget_are_those_of_the_model(name: str) -> None:
    entry: dict[str, Any] = SHIPPED[name]
    recipe = config.load(ROOT / "configs" / f"{name}.yaml")
    assert entry["images"] == recipe.trainer.max_images
    if "parameters" in entry:
        cost = model_cost(build_model(recipe, build_data(recipe).train), (128, 128))
        assert entry["parameters"] == pytest.approx(cost.parameters, abs=5_000)
        assert entry["multiply_adds"] == pytest.approx(cost.multiply_adds, abs=5_000_000)


def test_scores_that_no_json_has_are_on_a_linked_page_of_experiments() -> None:
    """`tools.conventions` holds the others to docs/results.json."""
    tree = Tree(ROOT)
    for page in tree.pages():
        text = TABLE.sub("", re.sub(r"[\d.]+(?: ± [\d.]+)?<!--.*?-->", "", tree.text(page)))
        scores = {} if page.startswith(EXPERIMENTS) else {match[0]: match[2] for match in TYPED.finditer(text)}
        links = (posixpath.normpath(f"{page}/../{link}") for link in re.findall(r"\]\(([^)#]+\.md)", text))
        experiments = "".join(tree.text(link) for link in {*links} if link.startswith(EXPERIMENTS))
        assert not [score for score, value in scores.items() if value not in experiments], page


def test_readme_compares_all_backbones_of_the_measurement() -> None:
    rows = [
        re.findall(r"^\| (\w[^|]*?) \|(.*0\.\d{3}.*)", (ROOT / page).read_text(), re.MULTILINE)
        for page in ("README.md", "docs/development/backbones.md")
    ]
    short, long = ({backbone: re.findall(r"0\.\d{3}", cells) for backbone, cells in pairs} for pairs in rows)
    assert short == {backbone: [scores[0], *scores[2:4]] for backbone, scores in long.items()}  # without AP50, delta1
