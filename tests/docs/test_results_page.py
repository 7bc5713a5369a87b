"""docs/results.md has the costs of the models of its recipes, and the scores, times and budgets of their files."""

import re
from pathlib import Path

import pytest

from densevit import config
from densevit.data.build import build_data
from densevit.inference.creating import build_model
from densevit_workbench.model_cost import model_cost

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| `(\w+)\.yaml`[ *]*\|(.*)\|$", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)
OWN_FOLDERS = ("bccd", "camvid", "middlebury")


def comment(name: str) -> str:
    """The first lines of a recipe's file."""
    lines = (ROOT / "configs" / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


def test_each_recipe_on_scenes_has_a_row():
    files = [path for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("overfit")]
    recipes = {path.stem for path in files if "Cost and score are not measured." not in comment(path.stem)}
    assert {name for name, _ in ROWS} == recipes


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_scores_and_time_are_those_of_the_recipes_file(name: str, row: str):
    times = re.findall(r"[\d.]+ min", row)
    scores = re.findall(r"\b0\.\d{3}\b", row)
    assert len(times) == 1 and scores
    for figure in times + scores:
        assert figure in comment(name), figure


@pytest.mark.parametrize(
    ("name", "row"), [row for row in ROWS if row[0] not in OWN_FOLDERS], ids=lambda value: value.partition(" ")[0]
)
def test_cost_and_budget_are_those_of_the_model(name: str, row: str):
    recipe = config.load(ROOT / "configs" / f"{name}.yaml")
    cost = model_cost(build_model(recipe, build_data(recipe).train), (128, 128))
    assert f"{cost.parameters / 1e6:.2f} M" in row
    assert f"{cost.multiply_adds / 1e9:.2f} G" in row
    assert f"{recipe.trainer.max_images:,}" in row
