"""docs/results.md has the costs of the models of its recipes, and their budgets."""

import re
from pathlib import Path

import pytest

from densevit import config
from densevit.data.build import build_data
from densevit.inference.creating import build_model
from densevit_workbench.model_cost import model_cost

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(r"^\| `([\w/]+)\.yaml`[ *]*\|(.*)\|$", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE)
OWN_FOLDERS = ("bccd", "camvid", "middlebury")


@pytest.mark.parametrize(
    ("name", "row"), [row for row in ROWS if row[0] not in OWN_FOLDERS], ids=lambda value: value.partition(" ")[0]
)
def test_cost_and_budget_are_those_of_the_model(name: str, row: str):
    recipe = config.load(ROOT / "configs" / f"{name}.yaml")
    cost = model_cost(build_model(recipe, build_data(recipe).train), (128, 128))
    assert f"{cost.parameters / 1e6:.2f} M" in row
    assert f"{cost.multiply_adds / 1e9:.2f} G" in row
    assert f"{recipe.trainer.max_images:,}" in row
