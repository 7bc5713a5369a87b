"""densevit/training/run/plan.py: what a training is built of before its first step."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from densevit import config as configs
from tests.training.runs import SEGMENTATION, assert_same


@pytest.mark.integration
def test_a_plan_that_starts_from_a_file_saves_its_model_and_names_it(tmp_path: Path) -> None:
    from densevit.training.run.inputs import TrainingInputs
    from densevit.training.run.plan import Plan

    plan = Plan.of(TrainingInputs.of(configs.from_mapping(yaml.safe_load(SEGMENTATION))))
    started = plan.starting_from(tmp_path / "model.safetensors")
    assert_same(load_file(tmp_path / "model.safetensors"), plan.model.state_dict())
    assert started.config.weights == started.model.sections.weights == str(tmp_path / "model.safetensors")
