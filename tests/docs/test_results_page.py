"""docs/results.json has the costs of the models of recipes on scenes, and their budgets."""

import json
from pathlib import Path
from typing import Any

import pytest

from densevit import config
from densevit.data.data_builder import build_data
from densevit_workbench.model_cost import model_cost
from tests.built_models import build_model

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
TRAININGS = json.loads((ROOT / "docs" / "results.json").read_text())["trainings"]
SHIPPED = {
    name: entry
    for name, entry in TRAININGS.items()
    if entry["data"] in ("scenes", "scenes, test") and "recipe" not in entry
}


@pytest.mark.parametrize("name", SHIPPED)
def test_cost_and_budget_are_those_of_the_model(name: str) -> None:
    entry: dict[str, Any] = SHIPPED[name]
    recipe = config.load(ROOT / "configs" / f"{name}.yaml")
    assert entry["images"] == recipe.trainer.max_images
    if "parameters" in entry:
        cost = model_cost(build_model(recipe, build_data(recipe).train), (128, 128))
        assert entry["parameters"] == pytest.approx(cost.parameters, abs=5_000)
        assert entry["multiply_adds"] == pytest.approx(cost.multiply_adds, abs=5_000_000)
